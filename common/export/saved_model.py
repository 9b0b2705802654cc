"""A SavedModel seen from outside: its signatures and what they compute, by TensorFlow alone."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

XLA_MARK = "_XlaMustCompile"
"""Attribute of a node or function that only a server with the XLA compiler can run."""
HARMLESS = frozenset(
    """
    Abs Add AddN AddV2 All Any ArgMax ArgMin Assert AssignVariableOp AvgPool AvgPool3D
    BatchMatMulV2 BatchToSpaceND BiasAdd BroadcastArgs BroadcastTo Cast Ceil ClipByValue
    ConcatV2 Const Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 Cumsum DepthToSpace
    DepthwiseConv2dNative DisableCopyOnRead DivNoNan Einsum Elu EmptyTensorList EnsureShape
    Equal Exp ExpandDims Fill Floor FloorDiv FloorMod FusedBatchNormV3 GatherNd GatherV2 Greater
    GreaterEqual Identity IdentityN If IsFinite IsNan LeakyRelu Less LessEqual LinSpace Log
    LogicalAnd LogicalNot LogicalOr LogSoftmax LowerBound MatMul Max Maximum MaxPool MaxPool3D
    Mean Min Minimum MirrorPad Mul Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2
    PartitionedCall Placeholder Pow PreventGradient Prod Range Rank ReadVariableOp RealDiv Relu
    Relu6 Reshape ResizeBilinear ResizeNearestNeighbor ReverseV2 Rint Roll Round Rsqrt ScatterNd
    Select SelectV2 Shape Sigmoid Sign Size Slice Softmax SpaceToBatchND SpaceToDepth Split
    SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StatelessIf
    StatelessWhile StaticRegexFullMatch StopGradient StridedSlice StringJoin Sub Sum Tanh
    TensorListConcatV2 TensorListFromTensor TensorListGetItem TensorListLength TensorListPopBack
    TensorListPushBack TensorListReserve TensorListSetItem TensorListStack TensorScatterAdd
    TensorScatterUpdate Tile TopKV2 Transpose Unpack UpperBound VarHandleOp VarIsInitializedOp
    Where While ZerosLike
    """.split()
)
"""Operations that compute, keep variables and branch: what exports are made of, and their like."""


def read_signatures(folder: Path) -> dict[str, dict]:
    """Read names, dtypes and shapes of all signatures, and where the graph has their tensors.

    Returns:
        {signature: {"inputs": {name: {"dtype", "shape", "tensor"}}, "outputs": {...}}}; an open
        dimension of a shape is None, an open rank makes the whole shape None.

    Raises:
        OSError: saved_model.pb is missing or cannot be read.
        ValueError: it is damaged.
    """

    def spec_of(tensor) -> dict:
        shape, sizes = tensor.tensor_shape, None
        if not shape.unknown_rank:
            sizes = [None if axis.size < 0 else axis.size for axis in shape.dim]
        dtype = tf.dtypes.as_dtype(tensor.dtype).name
        return {"dtype": dtype, "shape": sizes, "tensor": tensor.name}

    return {
        name: {side: {key: spec_of(value) for key, value in sorted(getattr(entry, side).items())}
               for side in ("inputs", "outputs")}
        for name, entry in sorted(_read_graph(folder).signature_def.items())
        if not name.startswith("__saved_model")
    }  # fmt: skip


def forced_xla(folder: Path) -> list[str]:
    """Return the nodes and functions of a SavedModel that only XLA may run."""
    graph = _read_graph(folder).graph_def
    marked = [(node.name, node.attr) for node in graph.node]
    for function in graph.library.function:
        marked += [(node.name, node.attr) for node in function.node_def]
        marked.append((function.signature.name, function.attr))
    return [name for name, attributes in marked if attributes[XLA_MARK].b]


def foreign_operations(folder: Path) -> list[str]:
    """Return the operations of a SavedModel that the suite's exports never have.

    A graph is a program: it can read and write files, run Python of this process or operations of a
    plug-in. What loading and calling the signatures can reach is looked at: all functions but those
    that the variables' own saver alone calls, which nothing here runs.
    """
    meta = _read_graph(folder)
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    saver = meta.saver_def.save_tensor_name.partition(":")[0], meta.saver_def.restore_op_name
    own = [node for node in meta.graph_def.node if node.name in saver]
    nodes = [node for node in meta.graph_def.node if node.name not in saver]
    saving = _reached(own, functions)
    called = _reached(nodes, functions) | set(meta.object_graph_def.concrete_functions)
    for name in set(functions) - (saving - called):
        nodes += functions[name].node_def
    return sorted({node.op for node in nodes} - HARMLESS - set(functions))


def _reached(nodes, functions: Mapping) -> set[str]:
    """Return the names of the functions that some nodes call, and these in turn."""
    reached, left = set(), list(nodes)
    while left:
        node = left.pop()
        values = [value.func.name for value in node.attr.values() if value.HasField("func")]
        values += [each.name for value in node.attr.values() for each in value.list.func]
        for name in {node.op, *values} & set(functions) - reached:
            reached.add(name)
            left += functions[name].node_def
    return reached


def _read_graph(folder: Path):
    path = Path(folder) / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"{path} is damaged") from None
    if not model.meta_graphs:
        raise ValueError(f"{path} holds no graph")
    return model.meta_graphs[0]


def evaluate_signatures(
    folder: Path, *examples: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Evaluate signatures of a SavedModel, loaded once, with TensorFlow in this process.

    Each example has inputs by name, per signature; returned are its outputs by "signature/output".
    """
    # Kept whole: the signatures do not keep the variables alive on their own.
    loaded = tf.saved_model.load(str(folder))

    def evaluate(signature: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = {name: tf.constant(array) for name, array in arrays.items()}
        outputs = loaded.signatures[signature](**inputs)
        return {f"{signature}/{name}": value.numpy() for name, value in outputs.items()}

    with ThreadPoolExecutor(2) as pool:  # at a signature's first call one core prepares its graph
        return [
            {key: array for found in pool.map(evaluate, *zip(*calls.items(), strict=True))
             for key, array in found.items()}
            for calls in examples
        ]  # fmt: skip
