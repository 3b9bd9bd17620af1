"""Models run by onnxruntime, whole or piece by piece, and the inputs to run them on."""
