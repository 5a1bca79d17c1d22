"""The event loop: uvicorn with the runtime in it, and the life of a service around it.

uvicorn's own signal handling ends the process by the signal that stopped it; a service that
was asked to stop ends with status 0, so the handlers are ours.
"""

import asyncio
import contextlib
import logging
import signal

import uvicorn
from astromesh.api import main as api
from astromesh.api.routes import agent_channels, agents, memory, system, whatsapp
from astromesh.runtime.engine import AgentRuntime
from astromesh.runtime.peers import PeerClient
from astromesh.runtime.services import ServiceManager

from astromesh_node import config as node_config

logger = logging.getLogger("astromesh.node")

# Requests in flight get this long after TERM; the supervisor's own limit is 20 s.
DRAIN_SECONDS = 15


class Node:
    """The runtime of one configuration folder and the routes that serve it."""

    def __init__(self, folder, config):
        self.folder = folder
        self.config = config
        self.runtime = None
        self._on_disk = set()

    async def load(self):
        """Reads the folder and puts the new runtime behind the routes, or leaves all as it was."""
        fresh = AgentRuntime(
            config_dir=str(self.folder),
            service_manager=ServiceManager(self.config.services),
            peer_client=PeerClient(self.config.peers),
        )
        await fresh.bootstrap()
        on_disk = set(fresh._agent_configs)
        if self.runtime is not None:
            await self._carry_over(fresh)
        for route in (agents, system, memory, whatsapp, agent_channels):
            route.set_runtime(fresh)
        previous, self.runtime, self._on_disk = self.runtime, fresh, on_disk
        if previous is not None:
            await previous.peer_client.close()

    async def _carry_over(self, fresh):
        """Agents made through the API are nowhere on disk: a reload must not lose them."""
        for name, config in self.runtime._agent_configs.items():
            if name in self._on_disk or name in fresh._agent_configs:
                continue
            await fresh.register_agent(config)
            if self.runtime._agent_status.get(name) == "deployed":
                await fresh.deploy_agent(name)

    def describe(self):
        """One line for the supervisor's status."""
        return f"{len(self.runtime.list_agents())} agents"


class Server(uvicorn.Server):
    """uvicorn that tells the supervisor when it serves, lives and stops."""

    def __init__(self, node, notifier, log_level):
        super().__init__(
            uvicorn.Config(
                api.app,
                log_config=None,
                access_log=log_level == "debug",
                timeout_graceful_shutdown=DRAIN_SECONDS,
                server_header=False,
            )
        )
        self._node = node
        self._notifier = notifier
        self._reload = asyncio.Lock()
        self._tasks = set()

    @contextlib.contextmanager
    def capture_signals(self):
        """Signals are taken by the loop, see `startup`."""
        yield

    async def startup(self, sockets=None):
        """Loads the agents, listens, and only then says so."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload_now()))
        await self._node.load()
        await super().startup(sockets=sockets)
        if not self.started:
            return
        for listener in sockets or []:
            logger.info("listening on %s", _name(listener))
        self._notifier.ready(self._node.describe())
        if self._notifier.watchdog_seconds is not None:
            self._spawn(self._ping(self._notifier.watchdog_seconds / 2))

    def _spawn(self, coroutine):
        # The loop keeps only weak references to tasks.
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop(self, number):
        if self.should_exit:
            self.force_exit = True
            return
        logger.info("%s: draining", signal.Signals(number).name)
        self._notifier.stopping()
        self.should_exit = True

    async def _ping(self, period):
        # None after STOPPING=1: from then on the stop timeout counts.
        while not self.should_exit:
            self._notifier.watchdog()
            await asyncio.sleep(period)

    async def _reload_now(self):
        async with self._reload:
            if self.should_exit:
                return
            self._notifier.reloading()
            try:
                fresh = node_config.load(self._node.folder)
                if (fresh.host, fresh.port) != (self._node.config.host, self._node.config.port):
                    logger.warning("spec.api has changed; the address changes at the next restart")
                self._node.config = fresh
                await self._node.load()
                status = self._node.describe()
                logger.info("reloaded: %s", status)
            except Exception as error:  # whatever is wrong on disk, what runs goes on
                logger.exception("reload failed, the previous agents stay")
                status = f"reload failed: {error}"
            self._notifier.ready(status.splitlines()[0])


def _name(listener):
    address = listener.getsockname()
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def serve(node, sockets, notifier, log_level):
    """Runs until asked to stop; says whether the service ever served."""
    server = Server(node, notifier, log_level)
    server.run(sockets=sockets)
    return server.started
