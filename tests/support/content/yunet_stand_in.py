"""A network of YuNet's inputs and outputs that finds one face where the picture is brightest blue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
FACE_SIDE, OFFSETS = 64, ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1))
"""Side of the face it states in pixels; its five points in steps of 8 pixels from the center of the cell."""


def write_yunet(path: Path) -> Path:
    """Write the stand-in: cells of 8 pixels whose mean blue is above 200 score 1, all others 0."""
    nodes, outputs, constants = [], [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    blue = np.zeros((1, 3, 1, 1), np.float32)
    blue[0, 0] = 1
    constant("blue", blue)
    constant("flat", np.array([1, -1, 1], np.int64))
    nodes.append(helper.make_node("Conv", ["input", "blue"], ["blueness"], kernel_shape=[1, 1]))
    for stride in STRIDES:
        pool = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", ["blueness"], [f"mean_{stride}"], **pool))
        shift = constant(f"shift_{stride}", np.array([-200.0 if stride == 8 else -1000.0], np.float32))
        nodes.append(helper.make_node("Add", [f"mean_{stride}", shift], [f"above_{stride}"]))
        nodes.append(helper.make_node("Relu", [f"above_{stride}"], [f"hit_{stride}"]))
        nodes.append(helper.make_node("Reshape", [f"hit_{stride}", "flat"], [f"cls_{stride}"]))
        nodes.append(helper.make_node("Reshape", [f"hit_{stride}", "flat"], [f"obj_{stride}"]))
        box = np.array([0, 0, *[np.log(FACE_SIDE / stride)] * 2], np.float32)
        points = np.array(OFFSETS, np.float32).ravel()
        for name, values in (("bbox", box), ("kps", points)):
            # A convolution of nothing with a bias: the same values in every cell.
            weight = constant(f"{name}_w_{stride}", np.zeros((len(values), 1, 1, 1), np.float32))
            bias = constant(f"{name}_b_{stride}", values)
            nodes.append(helper.make_node("Conv", [f"mean_{stride}", weight, bias], [f"{name}_grid_{stride}"]))
            nodes.append(
                helper.make_node("Transpose", [f"{name}_grid_{stride}"], [f"{name}_last_{stride}"], perm=[0, 2, 3, 1])
            )
            shape = constant(f"{name}_shape_{stride}", np.array([1, -1, len(values)], np.int64))
            nodes.append(helper.make_node("Reshape", [f"{name}_last_{stride}", shape], [f"{name}_{stride}"]))
        for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            outputs.append(helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, [1, None, width]))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, None, None])
    graph = helper.make_graph(nodes, "stand-in", [picture], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path
