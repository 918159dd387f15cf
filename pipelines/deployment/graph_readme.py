"""What stands beside an exported graph for people who have never heard of this package."""

import yaml

from utuning.bundles.card import TASK, base_model
from utuning.bundles.manifest import Manifest
from utuning.data.preprocessing import Preprocessing
from utuning.exporting.bank import Bank
from utuning.exporting.graphs import FORMS

IMPORTS = {"onnx": "import onnxruntime", "pt2": "import torch"}
OPEN = {
    "onnx": 'session = onnxruntime.InferenceSession("FOLDER/model.onnx")',
    "pt2": 'model = torch.export.load("FOLDER/model.pt2").module()',
}
RUN_ONE = {
    "onnx": '(logits,) = session.run(["logits"], {"images": images})',
    "pt2": "logits = model(images=torch.from_numpy(images)).detach().numpy()",
}
RUN_BANK = {
    "onnx": '(logits,) = session.run(["logits"], {"images": images, "tuner": rows, **bank})',
    "pt2": """bank = {name: torch.from_numpy(bank[name]) for name in sorted(bank)}  # pt2 takes them in this order
logits = model(images=torch.from_numpy(images), tuner=torch.from_numpy(rows), bank=bank).detach().numpy()""",
}
PICKLE = {
    "onnx": "Reading the file runs no code of it.",
    "pt2": (
        "This file holds no pickle; but a file can bring some, and `torch.export.load` would run it: load only files "
        "whose origin you trust."
    ),
}


def single_readme(manifest: Manifest, form: str, merged: bool) -> str:
    """Write the page of one tuner's graph."""
    how = "merged into the backbone's own weights" if merged else "beside the frozen backbone"
    front = {"base_model": base_model(manifest.backbone), "pipeline_tag": TASK, "tags": [form]}
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---
# {manifest.method} on {manifest.backbone.name}: {FORMS[form].file}

From images (batch, 3, {manifest.preprocessing.img_size}, {manifest.preprocessing.img_size}), uint8, to `logits` \
(batch, {len(manifest.class_names)}), float32; any batch size.
The tuner is {how}. `labels.json` names the classes in order, `preprocessing.json` says how an image becomes an
input, `parity.json` how far the graph agrees with PyTorch, `manifest.json` what the tuner is. {PICKLE[form]}

```python
{_head(form)}

{_load(manifest.preprocessing)}

with open("FOLDER/labels.json", encoding="utf-8") as file:
    labels = json.load(file)
{OPEN[form]}
images = np.stack([load("IMAGE")])
{RUN_ONE[form]}
{SOFTMAX}
for place in probabilities[0].argsort()[::-1][:5]:
    print(labels[place], float(probabilities[0, place]))
```
"""


def bank_readme(bank: Bank, preprocessing: Preprocessing, form: str) -> str:
    """Write the page of a graph that takes tuners as inputs."""
    size = preprocessing.img_size
    inputs = "\n".join(
        f"| `{name}` | (tuners, {', '.join(map(str, shape))}) |" for name, shape in bank.shapes().items()
    )
    return f"""# {bank.backbone} with tuners as inputs: {FORMS[form].file}

One graph for any number of tuners. Inputs: `images` (rows, 3, {size}, {size}), uint8; `tuner` (rows,), int64, the place
of each row's tuner; and the tuners' tensors, float32, stacked, which `bank.safetensors` holds. Output: `logits` (rows,
{bank.num_classes}), float32; a class that a tuner has not gets -1e30. Numbers of rows and of tuners are open.
`bank.json` names the tuners and their labels in order, `preprocessing.json` says how an image becomes an input,
`parity.json` how far the graph agrees with PyTorch, `NAME.manifest.json` what a tuner is. {PICKLE[form]}

```python
{_head(form)}
from safetensors.numpy import load_file

{_load(preprocessing)}

with open("FOLDER/bank.json", encoding="utf-8") as file:
    tuners = json.load(file)["tuners"]
bank = load_file("FOLDER/bank.safetensors")
{OPEN[form]}
images, rows = np.stack([load("IMAGE")] * len(tuners)), np.arange(len(tuners))  # the image, with each tuner
{RUN_BANK[form]}
{SOFTMAX}
for tuner, row in zip(tuners, probabilities):
    best = row.argmax()
    print(tuner["name"], tuner["labels"][best], float(row[best]))
```

| tensor | shape |
|---|---|
{inputs}
"""


SOFTMAX = """probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
probabilities /= probabilities.sum(axis=1, keepdims=True)"""


def _head(form: str) -> str:
    return f"""import json

import numpy as np
{IMPORTS[form]}
from PIL import Image, ImageOps"""


def _load(p: Preprocessing) -> str:
    return f"""
def load(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    sides = [{p.resize} * side // min(image.size) for side in image.size]
    image = image.resize(sides, Image.Resampling.{p.interpolation.upper()})
    left, top = (round((side - {p.img_size}) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + {p.img_size}, top + {p.img_size}))).transpose(2, 0, 1)
"""
