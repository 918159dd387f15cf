"""The two forms of a graph, ONNX and PyTorch's pt2: how a module is written, and how what was written is run."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from utuning.errors import BundleError, ConfigError

Inputs = Mapping[str, Any]
"""The arguments of a module by name: tensors, or tensors by name."""
Run = Callable[[Inputs], Tensor]
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_SIZE = 65_535


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form: its file's name, and two functions."""

    file: str
    write: Callable[[ExportedProgram, Inputs, Any, Path], None]
    open: Callable[[Path], Run]


def trace(module: nn.Module, inputs: Inputs, sizes: Mapping[str, Any]) -> ExportedProgram:
    """Record a module as a graph in which some sizes are open.

    Args:
        module: in eval mode.
        inputs: example arguments, with 2 or more of everything that is open.
        sizes: for each argument the names of its open dimensions, by their place.

    Raises:
        ConfigError: it cannot be recorded.
    """
    names = {name for each in _leaves(sizes) for name in each.values()}
    dims = {name: Dim(name, min=1, max=MAX_SIZE) for name in names}
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(module, (), dict(inputs), dynamic_shapes=_mapped(sizes, dims.__getitem__))
        except Exception as error:  # a model's own code may break tracing in any way
            raise ConfigError(
                f"the model cannot be recorded as a graph: {_first_line(error)}; deploy the bundle itself, with "
                "`utuning predict`"
            ) from error
    _forget_sources(program)
    return program


def _forget_sources(program: ExportedProgram) -> None:
    """Files would name the folders of the machine that they were made on."""
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)


def check_form(form: str) -> None:
    """Check that the packages of a form are there.

    Raises:
        ConfigError: one is missing.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None] if form == "onnx" else []
    if missing:
        raise ConfigError(
            f"the form onnx needs {', '.join(missing)}; allowed without them: pt2; install the extra: "
            "pip install 'utuning-on-ray[export]'"
        )


def _write_onnx(program: ExportedProgram, inputs: Inputs, sizes: Any, path: Path) -> None:
    with quiet():
        try:
            onnx_program = torch.onnx.export(
                program,
                dynamic_shapes=sizes,
                input_names=[*_flat(inputs)],
                output_names=["logits"],
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # an operator that the exporter does not know, deep inside it
            raise ConfigError(f"the graph cannot be written as onnx: {_first_line(error)}; try --to pt2") from error
        assert onnx_program is not None
        for node in onnx_program.model.graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # decompositions make new ones
        onnx_program.save(path)


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(
            f"{path} is no graph that ONNX Runtime reads: {_first_line(error)}; export it again"
        ) from error

    def run(inputs: Inputs) -> Tensor:
        feeds = {name: value.numpy() for name, value in _flat(inputs).items()}
        return torch.from_numpy(session.run(["logits"], feeds)[0])

    return run


def _write_pt2(program: ExportedProgram, inputs: Inputs, sizes: Any, path: Path) -> None:
    # Example inputs are the one part that would be pickled.
    program.example_inputs = None
    with quiet():
        torch.export.save(program, path)


def _open_pt2(path: Path) -> Run:
    """Only for files that were just written here: torch's reader unpickles where a file asks for it."""
    with quiet():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def run(inputs: Inputs) -> Tensor:
        logits: Tensor = module(**inputs)
        return logits

    return run


FORMS: Mapping[str, Form] = {
    "onnx": Form(file="model.onnx", write=_write_onnx, open=_open_onnx),
    "pt2": Form(file="model.pt2", write=_write_pt2, open=_open_pt2),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say to their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _flat(inputs: Inputs) -> dict[str, Tensor]:
    """Tensors by name: those of a dictionary have their own names."""
    return {
        name: tensor
        for key, value in inputs.items()
        for name, tensor in (value.items() if isinstance(value, Mapping) else [(key, value)])
    }


def _leaves(sizes: Any) -> Sequence[Mapping[int, str]]:
    if all(isinstance(key, int) for key in sizes):
        return [sizes]
    return [leaf for each in sizes.values() for leaf in _leaves(each)]


def _mapped(sizes: Any, to: Callable[[str], Any]) -> Any:
    return {key: to(value) if isinstance(value, str) else _mapped(value, to) for key, value in sizes.items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
