"""The command line of astromeshd.

What can fail quickly comes before what is slow: arguments, configuration, the address, and
only then the import of the runtime, which takes most of a start.
"""

import argparse
import gc
import logging
import os
import sys

from astromesh_node import config as node_config
from astromesh_node import sockets
from astromesh_node.notify import Notifier

EXIT_FAILED = 1
EXIT_USAGE = 2


def parse(argv):
    """The command line; argparse ends the process with status 2 on a wrong one."""
    parser = argparse.ArgumentParser(prog="astromeshd", description="Runs the Astromesh agent runtime.")
    parser.add_argument("--config", required=True, metavar="DIR", help="folder with runtime.yaml and agents/")
    parser.add_argument("--host", help="address to listen on (default: spec.api.host, else 0.0.0.0)")
    parser.add_argument("--port", type=int, help="port to listen on (default: spec.api.port, else 8000)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs astromeshd; the value is the exit status."""
    arguments = parse(argv)
    try:
        config = node_config.load(arguments.config)
        port = config.port if arguments.port is None else node_config.check_port(arguments.port, "--port")
        listeners = sockets.inherited() or [sockets.bind(arguments.host or config.host, port)]
    except node_config.ConfigError as error:
        return _fail(error, EXIT_USAGE)
    except sockets.BindError as error:
        return _fail(error, EXIT_FAILED)
    notifier = Notifier()
    _set_up_logging(arguments)

    # Importing makes a hundred thousand objects that live as long as the process: looking for
    # garbage among them costs a fifth of the import, now and at every later collection.
    gc.disable()
    from astromesh_node import server

    gc.freeze()
    gc.enable()

    node = server.Node(arguments.config, config)
    try:
        served = server.serve(node, listeners, notifier, arguments.log_level)
    except Exception as error:
        logging.getLogger("astromesh.node").exception("astromeshd ends")
        notifier.send(f"STATUS=failed: {error}")
        return EXIT_FAILED
    return 0 if served else EXIT_FAILED


def _set_up_logging(arguments):
    """Lines without a time: whoever collects them adds it."""
    os.environ["ASTROMESH_CONFIG_DIR"] = arguments.config
    os.environ.setdefault("ASTROMESH_LOG_LEVEL", arguments.log_level)
    os.environ.setdefault("ASTROMESH_LOG_FORMAT", "%(levelname)s %(name)s: %(message)s")
    logging.basicConfig(
        stream=sys.stderr,
        level=arguments.log_level.upper(),
        format=os.environ["ASTROMESH_LOG_FORMAT"],
    )
    # The runtime logs its own tree; the loop and the HTTP client say little of use below this.
    for name in ("asyncio", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if arguments.log_level == "info":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def _fail(error, status):
    print(f"astromeshd: {error}", file=sys.stderr)
    return status
