"""As much of a Kubernetes API as Helm asks before it installs: discovery, and objects that are or are not there."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GROUPS = {
    "v1": {"ConfigMap": "configmaps", "Secret": "secrets", "Service": "services", "ServiceAccount": "serviceaccounts"},
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "batch/v1": {"Job": "jobs"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
}


def _resources(version: str) -> dict[str, Any]:
    verbs = ["create", "get", "list", "patch", "update"]
    named = [
        {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs}
        for kind, plural in GROUPS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": named}


def _group(version: str) -> dict[str, Any]:
    name, _, number = version.partition("/")
    edition = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [edition], "preferredVersion": edition}


class Cluster(http.server.BaseHTTPRequestHandler):
    """Answers GET; the objects are in a table by path."""

    objects: dict[str, Any]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        answer = self._discovery(path) or self.objects.get(path)
        if answer is None and path.endswith("/secrets"):
            answer = {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []}
        status = 200 if answer is not None else 404
        absent = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(answer or absent).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _discovery(self, path: str) -> dict[str, Any] | None:
        if path == "/version":
            return {"major": "1", "minor": "33", "gitVersion": "v1.33.1"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [_group(version) for version in GROUPS if version != "v1"]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        return _resources(version) if version in GROUPS else None

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def cluster(objects: dict[str, Any]) -> Iterator[str]:
    """A cluster that holds these objects, by path; its address."""
    handler = type("Held", (Cluster,), {"objects": objects})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
