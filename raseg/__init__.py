import common  # decides how TensorFlow starts, before it is imported

common.runtime.import_with_keras("raseg.layers")
