import common  # decides how TensorFlow starts, before it is imported
