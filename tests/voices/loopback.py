"""A small server in a process of its own, for the tests: a real model behind the paths of vLLM, and faults on demand.

python loopback.py FOLDER [PORT]     serves the model of a folder; prints its port. POST /control sets what goes wrong.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

import torch
from safetensors.torch import load_file

from tutelage.models.load import load

QUIET = {"name": "tiny", "fail": 0, "times": 0, "slow": 0.0, "cut": 0, "noise": 0.0, "tokenizes": True, "shift": 0, "most": 64, "key": "", "ids": True, "dev": True, "deaf": False, "half": False}


class State:
    """The model, what goes wrong, and what was asked."""

    def __init__(self, folder: str) -> None:
        self.model, self.lock = load(folder), Lock()
        self.faults, self.count, self.seen, self.resets = dict(QUIET), 0, [], 0

    def reload(self, folder: str) -> None:
        """As vLLM does: whatever the safetensors files of a folder name."""
        weights = {k: v.float() for file in sorted(Path(folder).glob("*.safetensors")) for k, v in load_file(file).items()}
        if not weights:
            raise FileNotFoundError(folder)
        if self.faults["half"]:
            weights = {k: v for k, v in weights.items() if "mlp" in k}
        with self.lock:
            self.model.inner.load_state_dict({} if self.faults["deaf"] else weights, strict=False)

    @torch.no_grad()
    def log_probs(self, ids: list[int]) -> torch.Tensor:
        with self.lock:
            logits = self.model.inner(input_ids=torch.tensor([ids])).logits[0]
            if self.faults["noise"]:
                logits = logits + self.faults["noise"] * torch.randn(logits.shape, generator=torch.Generator().manual_seed(9))
            return logits.log_softmax(-1)


class Handler(BaseHTTPRequestHandler):
    state: State
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        name = self.state.faults["name"]
        if self._trouble():
            return
        if self.path == "/v1/models":
            self._say(200, {"data": [{"id": name, "root": name, "max_model_len": 256}]})
        elif self.path == "/count":
            self._say(200, {"count": self.state.count, "seen": self.state.seen, "resets": self.state.resets})
        else:
            self._say(404, {"error": {"message": "no such path"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        faults, tokenizer = self.state.faults, self.state.model.tokenizer
        if self.path == "/control":
            self.state.faults, self.state.count, self.state.seen, self.state.resets = {**QUIET, **body}, 0, [], 0
            self._say(200, {})
            return
        if self._trouble():
            return
        if self.path == "/tokenize" and faults["tokenizes"]:
            ids = tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
            self._say(200, {"tokens": [i + faults["shift"] for i in ids]})
        elif self.path == "/collective_rpc" and faults["dev"]:
            assert body["method"] == "reload_weights"
            try:
                self.state.reload(body["kwargs"]["weights_path"])
                self._say(200, {"results": [None]})
            except FileNotFoundError as error:
                self._say(400, {"error": {"message": f"no weights in {error}"}})
        elif self.path == "/reset_prefix_cache" and faults["dev"]:
            self.state.resets += 1
            self._say(200, {"success": True})
        elif self.path == "/v1/completions":
            self.state.count += 1
            self.state.seen.append(body)
            self._complete(body)
        else:
            self._say(404, {"error": {"message": "no such path"}})

    def _trouble(self) -> bool:
        faults = self.state.faults
        if self.path in ("/control", "/count"):
            return False
        if faults["key"] and self.headers.get("Authorization") != f"Bearer {faults['key']}":
            self._say(401, {"error": {"message": f"wrong key {self.headers.get('Authorization')}"}})
            return True
        time.sleep(faults["slow"])
        if faults["times"] > 0 and self.path == "/v1/completions":
            faults["times"] -= 1
            if faults["cut"]:
                self._say(200, {"choices": [{"text": "x" * 200}]}, cut=faults["cut"])
            else:
                self._say(faults["fail"] or 503, {"error": {"message": "trouble"}})
            return True
        return False

    def _complete(self, body):
        faults, asked = self.state.faults, body.get("prompt_logprobs")
        if asked and asked > faults["most"]:
            self._say(400, {"error": {"message": f"Requested prompt logprobs of {asked}, which is greater than max allowed: {faults['most']}"}})
            return
        choice = {"index": 0, "text": "", "finish_reason": "length"}
        if asked is not None:
            choice["prompt_logprobs"] = self._prompt(body["prompt"], asked)
        else:
            choice |= self._write(body)
        self._say(200, {"model": faults["name"], "choices": [choice], "system_fingerprint": "loopback-1"})

    def _prompt(self, ids, most):
        out, said = [None], self.state.log_probs(ids)
        for token, row in zip(ids[1:], said[:-1], strict=True):
            top = row.topk(min(most, len(row)))
            entry = {token: row[token].item(), **dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))}
            out.append({str(i): {"logprob": x, "decoded_token": self.state.model.tokenizer.decode([i + self.state.faults["shift"]])} for i, x in entry.items()})
        return out

    def _write(self, body):
        tokenizer, ids, said = self.state.model.tokenizer, body["prompt"], []
        if isinstance(ids, str):
            ids = tokenizer(ids, add_special_tokens=False)["input_ids"]
        draw, seen = torch.Generator().manual_seed(body["seed"]), list(ids)
        while len(said) < body["max_tokens"]:
            row = self.state.log_probs(seen)[-1]
            hot = body["temperature"]
            token = int(row.argmax()) if hot == 0 else int(torch.multinomial((row / hot).softmax(-1), 1, generator=draw))
            said.append((token, row[token].item()))
            seen.append(token)
            if token == tokenizer.eos_token_id and not body.get("ignore_eos"):
                break
        ended = said[-1][0] == tokenizer.eos_token_id and not body.get("ignore_eos")
        out = {
            "text": tokenizer.decode([t for t, _ in said], skip_special_tokens=True),
            "finish_reason": "stop" if ended else "length",
            "logprobs": {"token_logprobs": [x for _, x in said]},
        }
        return out | ({"token_ids": [t for t, _ in said]} if self.state.faults["ids"] else {})

    def _say(self, status, table, cut=0):
        data = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:-cut] if cut else data)
        if cut:
            self.close_connection = True


if __name__ == "__main__":
    torch.set_num_threads(1)
    Handler.state = State(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", int((sys.argv[2:] or [0])[0])), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
