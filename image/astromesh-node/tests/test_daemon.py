"""astromeshd as its supervisor sees it: the process, its socket, its notifications."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.error
import urllib.request
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
# Bounds a wait that should end by itself; a test that reaches it fails.
PATIENCE = 120

AGENT = {
    "apiVersion": "astromesh/v1",
    "kind": "Agent",
    "metadata": {"name": "made-by-api", "version": "1.0.0"},
    "spec": {
        "identity": {"display_name": "Made by API", "description": "x"},
        "model": {
            "primary": {
                "provider": "openai_compat",
                "model": "none",
                "endpoint": "http://127.0.0.1:9/v1",
                "api_key_env": "NO_SUCH_KEY",
            }
        },
        "prompts": {"system": "Be brief."},
        "orchestration": {"pattern": "react", "max_iterations": 1},
    },
}


class Daemon(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.config = self.folder / "config"
        (self.config / "agents").mkdir(parents=True)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.notify.close)
        self.notify.bind(str(self.folder / "notify"))
        self.notify.settimeout(PATIENCE)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self, *arguments, environ=None, **options):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "ASTROMESH_PERSIST_AGENTS": "0",
            **(environ or {}),
        }
        command = [sys.executable, "-m", "astromesh_node", "--config", str(self.config)]
        process = subprocess.Popen([*command, *arguments], env=environment, text=True, **options)
        self.addCleanup(lambda: (process.kill(), process.wait()))
        return process

    def message(self):
        return dict(line.split("=", 1) for line in self.notify.recv(4096).decode().splitlines())

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def serve(self, **options):
        process = self.start("--host", "127.0.0.1", "--port", str(self.port), **options)
        self.assertEqual(self.message().get("READY"), "1")
        return process

    def test_ready_means_that_health_answers(self):
        from astromesh import __version__

        self.serve()
        self.assertEqual(self.call("/v1/health"), (200, {"status": "ok", "version": __version__}))

    def test_term_drains_and_ends_with_0(self):
        process = self.serve()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(self.message(), {"STOPPING": "1"})
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_the_loop_feeds_the_watchdog(self):
        self.serve(environ={"WATCHDOG_USEC": "200000"})
        for _ in range(3):
            self.assertEqual(self.message(), {"WATCHDOG": "1"})

    def test_a_watchdog_of_another_process_is_not_fed(self):
        process = self.serve(environ={"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"})
        process.send_signal(signal.SIGTERM)
        self.assertEqual(self.message(), {"STOPPING": "1"})

    def test_agents_are_made_run_and_kept_over_a_reload(self):
        process = self.serve()
        self.assertEqual(self.call("/v1/agents", AGENT)[0], 201)
        self.assertEqual(self.call("/v1/agents/made-by-api/deploy", {})[0], 200)
        status, answer = self.call("/v1/agents/made-by-api/run", {"query": "ping"})
        self.assertNotEqual(status, 404, answer)
        self.assertIsInstance(answer, dict)
        process.send_signal(signal.SIGHUP)
        first = self.message()
        self.assertEqual(first["RELOADING"], "1")
        self.assertGreater(int(first["MONOTONIC_USEC"]), 0)
        self.assertEqual(self.message()["READY"], "1")
        names = [agent["name"] for agent in self.call("/v1/agents")[1]["agents"]]
        self.assertEqual(names, ["made-by-api"])

    def test_a_reload_reads_new_agents_and_survives_broken_ones(self):
        process = self.serve()
        agent = {**AGENT, "metadata": {"name": "from-disk", "version": "1.0.0"}}
        file = self.config / "agents" / "a.agent.yaml"
        file.write_text(json.dumps(agent))
        process.send_signal(signal.SIGHUP)
        self.assertIn("RELOADING", self.message())
        self.assertEqual(self.message(), {"READY": "1", "STATUS": "1 agents"})
        file.write_text("{")
        process.send_signal(signal.SIGHUP)
        self.assertIn("RELOADING", self.message())
        self.assertIn("reload failed", self.message()["STATUS"])
        self.assertEqual(len(self.call("/v1/agents")[1]["agents"]), 1)

    def test_a_port_in_use_is_named(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", self.port))
            other.listen()
            process = self.start("--host", "127.0.0.1", "--port", str(self.port), stderr=subprocess.PIPE)
            said = process.communicate(timeout=PATIENCE)[1]
        self.assertEqual(process.returncode, 1)
        self.assertIn(f"127.0.0.1:{self.port}", said)
        self.assertIn("in use", said)

    def test_a_passed_socket_is_served(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", self.port))
            listener.listen()
            fd = listener.fileno()

            def give():
                os.dup2(fd, 3)
                os.set_inheritable(3, True)

            # The connection waits in the queue that the supervisor holds: it is not refused.
            answers = []
            early = threading.Thread(target=lambda: answers.append(self.call("/v1/health")[0]))
            early.start()
            self.start(environ={"LISTEN_FDS": "1"}, preexec_fn=give, close_fds=False)
            self.assertEqual(self.message().get("READY"), "1")
            early.join(PATIENCE)
        self.assertEqual(answers, [200])


if __name__ == "__main__":
    unittest.main()
