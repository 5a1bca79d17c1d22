"""runtime.yaml and the command line."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from astromesh_node import config, daemon


class ConfigTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, text):
        (self.folder / "runtime.yaml").write_text(text)
        return config.load(self.folder)

    def test_a_missing_file_means_the_defaults(self):
        loaded = config.load(self.folder)
        self.assertEqual((loaded.host, loaded.port, loaded.services), ("0.0.0.0", 8000, {}))

    def test_the_file_is_read(self):
        loaded = self.write(
            "kind: RuntimeConfig\nspec:\n  api: {host: 127.0.0.1, port: 9000}\n"
            "  services: {mesh: false}\n  ebpf: {enabled: true}\n"
        )
        self.assertEqual((loaded.host, loaded.port), ("127.0.0.1", 9000))
        self.assertEqual(loaded.services, {"mesh": False})

    def test_errors_name_the_file_and_the_key(self):
        for text, key in [
            ("spec: {api: {port: 70000}}", "spec.api.port"),
            ("spec: {api: {port: '8000'}}", "spec.api.port"),
            ("spec: {api: {port: true}}", "spec.api.port"),
            ("spec: {api: {host: 5}}", "spec.api.host"),
            ("spec: {api: 5}", "spec.api"),
            ("spec: {services: {rag: maybe}}", "spec.services.rag"),
            ("spec: {peers: [{}]}", "spec.peers"),
            ("kind: Agent", "kind"),
            ("{", "not YAML"),
            ("- a", "the document"),
        ]:
            with self.subTest(text=text), self.assertRaises(config.ConfigError) as caught:
                self.write(text)
            self.assertIn("runtime.yaml", str(caught.exception))
            self.assertIn(key, str(caught.exception))

    def test_wrong_usage_ends_with_status_2(self):
        for argv in [[], ["--config"], ["--config", "/", "--port", "x"], ["--config", "/", "--log-level", "loud"]]:
            with self.subTest(argv=argv), contextlib.redirect_stderr(io.StringIO()):
                with self.assertRaises(SystemExit) as caught:
                    daemon.main(argv)
                self.assertEqual(caught.exception.code, 2)

    def test_a_missing_folder_is_named(self):
        output = io.StringIO()
        with contextlib.redirect_stderr(output):
            status = daemon.main(["--config", str(self.folder / "none")])
        self.assertEqual(status, 2)
        self.assertIn(str(self.folder / "none"), output.getvalue())
