"""Networks in plain torch, one family per file: the module alone, its weights random.

Where the family is in torchvision or timm, parameters bear the names that they bear there, so that weights trained
elsewhere load. Every forward is written so that its ONNX export has a free batch.
"""
