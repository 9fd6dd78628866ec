import httpx2
import pytest

from posthouse.openai import Direct


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"model"'])
def test_what_is_no_json_object_goes_to_the_gateway_as_it_is(body: bytes) -> None:
    seen: list[bytes] = []

    def gateway(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.content)
        return httpx2.Response(400)

    with httpx2.Client(transport=Direct(httpx2.MockTransport(gateway))) as client:
        answer = client.post("http://gateway/v1/x", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, seen) == (400, [body])
