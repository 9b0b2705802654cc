import common.runtime  # decides how TensorFlow starts, before it is imported
