"""Opening a tracking store: quietly, soon, and with failures in words."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utuning.errors import TrackingError

STORES = "sqlite:///FOLDER/mlflow.db, http(s)://HOST:PORT, or another database that MLflow knows (postgresql://…)"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def connect(uri: str) -> tuple[Any, bool]:
    """Give a client of the store, creating a missing sqlite one, and whether the store is a database.

    Raises:
        TrackingError: the store cannot be reached or used; said within about ten seconds.
    """
    database = _scheme(uri) in DATABASES
    _quiet()
    if database:
        _probe_database(uri)
    return _client(uri), database


def beside_sqlite(uri: str) -> Path | None:
    """Where artifacts of a sqlite store lie if nobody says otherwise."""
    path = uri.partition(":///")[2]
    return Path(path).parent / "artifacts" if uri.startswith("sqlite") else None


@contextmanager
def in_words(doing: str) -> Iterator[None]:
    """Turn a failure of the store, or of the disk below it, into a `TrackingError` that says what was being done."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"could not {doing}: {_first_line(error)}; check that the tracking store is up and its disk has space, "
            "then start the same command again: finished trials are kept"
        ) from error


def safe(text: str) -> str:
    """Take passwords out of the URIs in a text."""
    return re.sub(r"(://[^/:@\s]*):[^@/\s]*@", r"\1@", text)


def _scheme(uri: str) -> str:
    scheme = uri.partition(":")[0].partition("+")[0] if ":" in uri else uri
    if scheme == "file" or (scheme == uri and scheme != "databricks"):
        raise TrackingError(
            f"{uri!r} is no tracking store: MLflow no longer writes runs to folders; allowed: {STORES}. "
            "`mlflow migrate-filestore` moves the runs of an old folder to a database"
        )
    return scheme


def _quiet() -> None:
    """Keep MLflow's notices, progress bars and usage reports out of the terminal, unless the user asked for them."""
    import logging

    for key in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        os.environ.setdefault(key, "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _probe_database(uri: str) -> None:
    """Connect once, since MLflow itself would go on trying for more than a minute."""
    import sqlalchemy

    sqlite = uri.startswith("sqlite")
    try:
        if sqlite:
            _make_writable(Path(uri.partition(":///")[2]))
        timeout = {} if sqlite or uri.startswith("mssql") else {"connect_timeout": 5}
        engine = sqlalchemy.create_engine(uri, connect_args=timeout)
        with engine.connect():
            sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, OSError, ImportError) as error:
        raise _unreachable(uri, error) from error


def _make_writable(database: Path) -> None:
    if database.parent.exists() and not database.parent.is_dir():
        raise NotADirectoryError(f"{str(database.parent)!r} is not a folder")
    database.parent.mkdir(parents=True, exist_ok=True)
    for place in (database.parent, *([database] if database.exists() else [])):
        if not os.access(place, os.W_OK):
            raise PermissionError(f"{str(place)!r} is not writable")


def _client(uri: str) -> Any:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with _hurried():
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise _unreachable(uri, error) from error
    return client


@contextmanager
def _hurried() -> Iterator[None]:
    """Let requests fail soon: the first one finds out whether anybody listens, later ones may wait for a restart."""
    hurry = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    before = {key: os.environ.get(key) for key in hurry}
    os.environ.update(hurry)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _unreachable(uri: str, error: Exception) -> TrackingError:
    return TrackingError(
        f"the tracking store {safe(uri)!r} cannot be used: {_first_line(error)}; allowed: {STORES}; "
        "check the address, that the server runs, that a database's driver is installed and that you may write there"
    )


def _first_line(error: Exception) -> str:
    # The exceptions of `requests` are OSErrors, and hold pages of connection pools.
    if not isinstance(error, OSError) and isinstance(error.__cause__ or error.__context__, OSError):
        return "no answer from the server"
    return safe((str(error).strip() or type(error).__name__).splitlines()[0])
