"""The network as four graphs for other runtimes, and a tracker on ONNX Runtime and NumPy, without torch.

`exporting` makes a folder of graphs and a manifest, and needs torch. `onnx_tracker` and `onnx_segmenter` use such a
folder without torch.
"""
