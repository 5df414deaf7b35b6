"""OpenAI's endpoints over HTTP."""

from .conftest import RunningServer


def test_what_is_not_there_is_said_in_openais_shape(server: RunningServer) -> None:
    answer = server.client.get("/v1/nothing")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
