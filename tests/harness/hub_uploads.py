"""What the hub on loopback does when something is pushed: the half of its handler that takes bytes.

The real client asks how each file is to come (preupload), stores the large ones (LFS: in one piece, or in
parts where `part_bytes` says so), and then sends one commit that names them all. Only what a commit names is
in the repository.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import yaml

_FRONT = re.compile(r"^---\n(.*?)\n---\n", re.DOTALL)


@dataclass
class Storage:
    """The large file storage, which all repositories share."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """By the SHA-256 of the content."""
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    part_bytes: int | None = None
    """Larger files come in parts of so many bytes."""
    owners: tuple[str, ...] = ("team",)
    """Whose repositories the owner of the token may write."""


class Uploads(BaseHTTPRequestHandler):
    """Answers POST and PUT."""

    server: Any

    def take(self) -> None:
        path, request, fault = self.note()
        promised = int(self.headers.get("Content-Length", 0))
        if fault is not None and fault.cut_after is not None:
            self.rfile.read(min(fault.cut_after, promised))
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(promised)
        if fault is not None and fault.status is not None:
            self.send(fault.status, b"{}", fault.headers)
        elif path.startswith("/complete/"):  # like /lfs/, at an address that is as good as a token
            self.complete(path.removeprefix("/complete/"), json.loads(body))
        elif path.startswith("/lfs/"):
            self.store(path, body)
        elif request.token not in self.server.hub.tokens:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        else:
            self.do(path, body)

    def do(self, path: str, body: bytes) -> None:
        if path == "/api/validate-yaml":
            self.validate(json.loads(body))
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path.startswith("/verify/"):
            self.reply({}, 200 if json.loads(body)["oid"] in self.server.hub.storage.objects else 404)
        elif (key := path.removesuffix(".git/info/lfs/objects/batch")) != path:
            self.batch(f"models{key}", json.loads(body))
        else:
            match path.removeprefix("/api/").split("/", 4):
                case [kind, owner, name, "branch", branch]:
                    self.branch(f"{kind}/{owner}/{name}", branch)
                case [kind, owner, name, "preupload", revision]:
                    self.preupload(f"{kind}/{owner}/{name}", revision, json.loads(body))
                case [kind, owner, name, "commit", revision]:
                    self.commit(f"{kind}/{owner}/{name}", revision, body)
                case _:
                    self.refuse(404, "", f"no such address: {path}")

    def validate(self, asked: dict[str, Any]) -> None:
        front = _FRONT.match(asked["content"])
        try:
            found = yaml.safe_load(front[1]) if front else {}
            problems = [] if isinstance(found, dict) else ["the metadata is no mapping"]
        except yaml.YAMLError as error:
            problems = [str(error)]
        self.reply(
            {"errors": [{"message": one} for one in problems], "warnings": []}, 400 if problems else 200
        )

    def create(self, asked: dict[str, Any]) -> None:
        owner, name = asked["organization"], asked["name"]
        key = f"models/{owner}/{name}"
        if owner not in self.server.hub.storage.owners:
            self.refuse(403, "", f"You don't have the rights to create a model under the namespace {owner}")
        elif key in self.server.hub.repos:
            there = {"error": "You already created this model repo", "url": self.url(owner, name)}
            self.reply(there, 409)
        else:
            repo = self.server.hub.model(f"{owner}/{name}", files={})
            repo.is_private = asked.get("visibility") == "private"
            self.reply({"url": self.url(owner, name)})

    def url(self, owner: str, name: str) -> str:
        return f"{self.server.hub.endpoint}/{owner}/{name}"

    def branch(self, key: str, branch: str) -> None:
        repos = self.server.hub.repos
        if f"{key}@{branch}" in repos or branch in repos[key].refs:
            self.refuse(409, "", "Reference already exists")
            return
        repos[f"{key}@{branch}"] = replace(repos[key], files={**repos[key].files}, refs={branch: ""})
        self.reply({}, 201)

    def at(self, key: str, revision: str) -> Any:
        return self.server.hub.repos.get(f"{key}@{revision}") or self.server.hub.repos[key]

    def preupload(self, key: str, revision: str, asked: dict[str, Any]) -> None:
        repo = self.at(key, revision)
        told = []
        for file in asked["files"]:
            name, there = file["path"], repo.files.get(file["path"])
            is_large = repo.large(name)
            about = {"path": name, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            if there is not None:
                about["oid"] = hashlib.sha256(there).hexdigest() if is_large else blob(there)
            told.append(about)
        self.reply({"files": told})

    def batch(self, key: str, asked: dict[str, Any]) -> None:
        storage, hub = self.server.hub.storage, self.server.hub
        objects = []
        for one in asked["objects"]:
            oid, size = one["oid"], one["size"]
            if oid in storage.objects:
                objects.append({"oid": oid, "size": size})
                continue
            upload: dict[str, Any] = {"href": f"{hub.cdn}/lfs/{oid}"}
            if storage.part_bytes is not None and size > storage.part_bytes:
                count = -(-size // storage.part_bytes)
                parts = {str(number): f"{hub.cdn}/lfs/{oid}/{number}" for number in range(1, count + 1)}
                upload["href"] = f"{hub.cdn}/complete/{oid}"
                upload["header"] = {"chunk_size": str(storage.part_bytes), **parts}
            actions = {"upload": upload, "verify": {"href": f"{hub.endpoint}/verify/{oid}"}}
            objects.append({"oid": oid, "size": size, "actions": actions})
        self.reply({"transfer": "basic", "objects": objects})

    def store(self, path: str, body: bytes) -> None:
        oid, _, number = path.removeprefix("/lfs/").partition("/")
        storage = self.server.hub.storage
        if number:
            storage.parts.setdefault(oid, {})[int(number)] = body
        else:
            storage.objects[oid] = body
        self.send(200, b"", {"ETag": hashlib.md5(body, usedforsecurity=False).hexdigest()})

    def complete(self, oid: str, asked: dict[str, Any]) -> None:
        storage = self.server.hub.storage
        parts = storage.parts.pop(oid)
        assert [part["partNumber"] for part in asked["parts"]] == sorted(parts)
        storage.objects[oid] = b"".join(parts[number] for number in sorted(parts))
        self.reply({})

    def commit(self, key: str, revision: str, body: bytes) -> None:
        repo, storage = self.at(key, revision), self.server.hub.storage
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(repo.files)
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    content = storage.objects[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
                    files[value["path"]] = content
                case "deletedFile":
                    del files[value["path"]]
        repo.files = files
        repo.commit = hashlib.sha1(body + repo.commit.encode(), usedforsecurity=False).hexdigest()
        repo.refs = dict.fromkeys(repo.refs, repo.commit)
        url = f"{self.server.hub.endpoint}/{key.partition('/')[2]}/commit/{repo.commit}"
        self.reply({"commitUrl": url, "commitOid": repo.commit})

    def reply(self, about: dict[str, Any], status: int = 200) -> None:
        self.send(status, json.dumps(about).encode(), {"Content-Type": "application/json"})


def blob(content: bytes) -> str:
    """git's name for a file with this content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
