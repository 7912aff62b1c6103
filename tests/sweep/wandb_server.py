"""A stand-in for W&B's server on 127.0.0.1: enough for the real client's sweeps, agents and runs. It keeps no file.

The client speaks GraphQL for sweeps, agents and runs, uploads files by PUT, streams history and summary as JSON lines.
"""

import gzip
import itertools
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

ENTITY, PROJECT = "lab", "sweeps"
_WHO = {"id": "e1", "name": ENTITY}


class StandIn:
    """Runs a server in a thread.

    Attributes:
        sweep: the sweep's configuration as the client sent it, text.
        trials: what the sweep still suggests, one trial after the other.
        runs: run's id -> what the server knows of it.
        unknown: operations it has no answer for.
        agents: how often an agent signed on.
    """

    def __init__(self, trials=()):
        self.trials, self.runs = list(trials), {}
        self.sweep, self.agents, self.unknown = "", 0, []
        self._started, self._to_stop, self._lock = [], set(), threading.Lock()
        self._numbers = itertools.count()
        handler = type("Handler", (_Handler,), {"stand_in": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def stop(self, run_id):
        """Ask for the end of a run, as the button in W&B's page does."""
        self._to_stop.add(run_id)

    # ------------------------------------------------------------ answers, by the operation's name

    def run_of(self, run_id):
        fresh = {"config": {}, "summary": {}, "history": [], "starts": 0, "exitcode": None, "sweep": None}
        return self.runs.setdefault(run_id, fresh)

    def answer(self, operation, variables):
        with self._lock:
            method = getattr(self, f"on_{operation.lower()}", None)
            if method is None:
                self.unknown.append(operation)
                return {}
            return method(variables)

    def on_viewer(self, _):
        return {"viewer": {"id": "u1", "entity": ENTITY, "username": "nobody", "flags": "{}", "teams": {"edges": []}}}

    def on_serverfeaturesquery(self, _):
        return {"serverInfo": {"features": []}}

    def on_upsertsweep(self, given):
        self.sweep = given["config"]
        project = {"id": "p1", "name": PROJECT, "entity": _WHO}
        return {"upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}}

    def on_sweepwithruns(self, _):
        sweep = dict.fromkeys(("description", "createdAt", "heartbeatAt", "updatedAt", "bestLoss", "controller"))
        sweep |= {"id": "s1", "name": "sweep1", "method": "grid", "state": "RUNNING", "config": self.sweep}
        return {"project": {"sweep": {**sweep, "scheduler": None, "earlyStopJobRunning": False, "runs": {"edges": []}}}}

    def on_createagent(self, _):
        self.agents += 1
        return {"createAgent": {"agent": {"id": "a1"}}}

    def on_heartbeat(self, given):
        running = json.loads(given["runState"])
        commands = [{"type": "stop", "run_id": run_id} for run_id in sorted(self._to_stop & set(running))]
        if not running:
            commands = [self._next()]
        return {"agentHeartbeat": {"agent": {"id": "a1"}, "commands": json.dumps(commands)}}

    def _next(self):
        if not self.trials:
            return {"type": "exit"}
        run_id = f"trial{next(self._numbers)}"
        args = {key: {"value": value} for key, value in self.trials.pop(0).items()}
        return {"type": "run", "run_id": run_id, "args": args, "program": yaml.safe_load(self.sweep)["program"]}

    def on_upsertbucket(self, given):
        run_id = given["name"]
        run = self.run_of(run_id)
        run["starts"] += int(not run["starts"])
        run["sweep"] = given.get("sweep") or run["sweep"]
        if given.get("config"):
            run["config"] |= {key: entry["value"] for key, entry in json.loads(given["config"]).items()}
        bucket = dict.fromkeys(("description", "config", "historyLineCount"))
        bucket |= {
            "id": run_id,
            "name": run_id,
            "displayName": given.get("displayName") or run_id,
            "sweepName": "sweep1",
        }
        bucket["project"] = {"id": "p1", "name": PROJECT, "entity": _WHO}
        return {"upsertBucket": {"bucket": bucket, "inserted": run["starts"] == 1}}

    def on_runresumestatus(self, _):
        return {"model": {"id": "p1", "name": PROJECT, "entity": _WHO, "bucket": None}}

    def on_artifacttype(self, _):
        return {"project": None}  # nobody has logged a table of that name before

    def on_createartifact(self, _):
        # Said to be there already, so that the client does not upload its files
        sequence = {"id": "q1", "latestArtifact": {"id": "v1", "versionIndex": 0}}
        return {"createArtifact": {"artifact": {"id": "v1", "state": "COMMITTED", "artifactSequence": sequence}}}

    def on_createrunfiles(self, given):
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{index}"} for index, name in enumerate(given["files"])]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def stream(self, run_id, content):
        """Take in a piece of a run's history, summary and end."""
        with self._lock:
            run = self.run_of(run_id)
            for name, piece in content.get("files", {}).items():
                lines = [json.loads(line) for line in piece["content"]]
                if name == "wandb-history.jsonl":
                    run["history"] += lines
                elif name == "wandb-summary.json":
                    run["summary"] |= lines[-1]
            if content.get("complete"):
                run["exitcode"] = content["exitcode"]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Print nothing of a client that was killed in the middle of a request."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Print nothing."""

    def _reply(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(pieces)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def do_PUT(self):
        self._body()
        self._reply({})

    def do_GET(self):
        self._reply({})

    def do_POST(self):
        body = self._body()
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.stand_in.stream(stream[1], json.loads(body))
            self._reply({"limits": {}, "exitcode": None})
        elif self.path == "/graphql":
            content = json.loads(body)
            match = re.search(r"(?:query|mutation)\s+(\w+)", content["query"])
            operation = content.get("operationName") or (match[1] if match else "unnamed")
            self._reply({"data": self.stand_in.answer(operation, content.get("variables") or {})})
        else:
            self._reply({})  # the client's own telemetry
