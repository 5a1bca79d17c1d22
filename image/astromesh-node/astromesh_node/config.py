"""`runtime.yaml`: what the node reads of it, checked.

Keys that the node does not know belong to the runtime or to other nodes and are left alone;
a known key with a value that cannot be used is an error that names the file and the key.
"""

from dataclasses import dataclass, field
from pathlib import Path


class ConfigError(Exception):
    """The configuration cannot be used; the text says where and why."""


@dataclass
class NodeConfig:
    """What the node takes from `runtime.yaml`."""

    host: str = "0.0.0.0"
    port: int = 8000
    services: dict = field(default_factory=dict)
    peers: list = field(default_factory=list)


def load(folder):
    """Reads `folder/runtime.yaml`; a missing file means the defaults, a missing folder does not."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"--config {folder}: no such folder")
    file = folder / "runtime.yaml"
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return NodeConfig()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error

    import yaml

    try:
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {error}") from error
    if document is None:
        return NodeConfig()
    return _parse(document, file)


def _parse(document, file):
    document = _mapping(document, file, "the document")
    kind = document.get("kind", "RuntimeConfig")
    if kind != "RuntimeConfig":
        raise ConfigError(f"{file}: kind is {kind!r}, expected 'RuntimeConfig'")
    spec = _mapping(document.get("spec"), file, "spec")
    api = _mapping(spec.get("api"), file, "spec.api")
    config = NodeConfig()
    if "host" in api:
        if not isinstance(api["host"], str) or not api["host"]:
            raise ConfigError(f"{file}: spec.api.host is {api['host']!r}, expected an address")
        config.host = api["host"]
    if "port" in api:
        config.port = check_port(api["port"], f"{file}: spec.api.port")
    config.services = _mapping(spec.get("services"), file, "spec.services")
    for name, enabled in config.services.items():
        if not isinstance(enabled, bool):
            raise ConfigError(f"{file}: spec.services.{name} is {enabled!r}, expected true or false")
    config.peers = spec.get("peers") or []
    if not isinstance(config.peers, list) or not all(
        isinstance(peer, dict) and "name" in peer and "url" in peer for peer in config.peers
    ):
        raise ConfigError(f"{file}: spec.peers must be a list of entries with name and url")
    return config


def _mapping(value, file, where):
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: {where} is not a mapping")
    return value


def check_port(value, where):
    """A TCP port as an int, or a ConfigError that names `where`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise ConfigError(f"{where} is {value!r}, expected a port from 1 to 65535")
    return value
