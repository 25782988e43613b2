"""Inference: a small model behind an HTTP port, streaming its tokens as they are made.

A word trigram model in plain Python: it is a toy, but it is asked and it answers as a real server
of a language model does. POST /v1/completions {"prompt": "...", "max_tokens": 40, "stream": true}
answers with server-sent events, one token each; GET /health says when it is ready.
"""

import json
import os
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8000"))
TOKEN_S = float(os.environ.get("TOKEN_MS", "0")) / 1000  # as long as a real model thinks
TEXT = """
The market has no owner. A provider offers what its machine can do, and signs the offer. A requester
asks for what a job needs, and says what it would pay. The network finds the machine that finishes
the job at the least expected cost. The escrow holds the money until the work is done. A provider
that goes silent loses its stake, and the job goes on at another machine from the last checkpoint.
A machine that is idle earns nothing, and a job that waits costs its owner time. The price of time
is a price like any other. The node that hears an offer checks the signature of the offer, and the
node that hears a demand checks whether its own machine is among the best. Nobody is in the middle.
"""


def train(text: str) -> dict[tuple[str, str], list[str]]:
    """What follows each pair of words."""
    words = text.split()
    model: dict[tuple[str, str], list[str]] = {}
    for first, second, third in zip(words, words[1:], words[2:], strict=False):
        model.setdefault((first, second), []).append(third)
    return model


MODEL = train(TEXT)
STARTS = sorted(pair for pair in MODEL if pair[0][0].isupper())


def tokens(prompt: str, count: int, seed: int):
    """Words that go on from the prompt, as the model has seen them."""
    dice = random.Random(seed)
    words = prompt.split()[-2:]
    pair = tuple(words) if tuple(words) in MODEL else dice.choice(STARTS)
    if pair != tuple(words):
        yield from pair
    for _ in range(count):
        if pair not in MODEL:
            pair = dice.choice(STARTS)
        time.sleep(TOKEN_S)
        word = dice.choice(MODEL[pair])
        yield word
        pair = (pair[1], word)


class Server(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing: the job's output is for what matters."""

    def do_GET(self):
        self._whole(200 if self.path == "/health" else 404, {"ready": True})

    def do_POST(self):
        try:
            length = min(int(self.headers.get("content-length", "0")), 1 << 20)
            asked = json.loads(self.rfile.read(length))
            prompt, seed = str(asked.get("prompt", "")), int(asked.get("seed", 0))
            count = max(1, min(int(asked.get("max_tokens", 40)), 4096))
        except (ValueError, AttributeError, TypeError) as problem:
            self._whole(400, {"error": str(problem)})
            return
        if self.path != "/v1/completions":
            self._whole(404, {"error": f"there is no {self.path}"})
        elif not asked.get("stream"):
            self._whole(200, {"text": " ".join(tokens(prompt, count, seed))})
        else:
            self._stream(tokens(prompt, count, seed))

    def _stream(self, words):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in words:
            self._chunk(f"data: {json.dumps({'token': word + ' '})}\n\n")
        self._chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text):
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _whole(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Server)  # the job's own network
    print(f"serving on port {PORT}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)
