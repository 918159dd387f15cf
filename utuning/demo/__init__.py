"""The embedded default: a drawn fine-grained data set and a small vision transformer for it.

The pictures show "lanternbacks", invented beetles whose species differ in small details (how many
marks, where they sit, how the feelers end), seen at dusk in varying pose and surroundings. All of
them follow from one seed, so nothing has to be downloaded to try the project. The transformer in
``vit.safetensors`` was trained by ``utuning.demo.pretrain`` on other species, seen by day.
"""
