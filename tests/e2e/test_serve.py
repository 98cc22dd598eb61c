"""A server as a line starts it: what it decides is what `predict` decides, and a signal ends it."""

import json
import re
import signal
import urllib.request

import pytest

from invad_jax.inference.predictor import load

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_decides_as_predict_does_and_ends_with_a_signal(commands, trained, number):
    path = str(commands.drawn_test_images()[0])
    (expected,) = load(trained).predict(path)
    server = commands.start("serve", "--workdir", "run", "--port", "0")
    try:
        address = None
        while not address:
            said = server.stderr.readline()
            assert said, "the server has ended"
            address = re.search(r"on (http://127\.0\.0\.1:\d+);", said)
        with open(path, "rb") as stream:
            request = urllib.request.Request(
                f"{address[1]}/api/images?name=x", stream.read(), {"Content-Type": "image/png"}
            )
        with urllib.request.urlopen(request, timeout=60) as answer:
            seen = json.load(answer)
        # One compiled function for one image, in two processes: equal, but for the threads' sums.
        assert seen["image_score"] == pytest.approx(expected.image_score, rel=1e-5)
        assert seen["decision"] == ("anomalous" if expected.decision else "normal")
        assert seen["threshold"] == expected.threshold
        server.send_signal(number)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.communicate()
