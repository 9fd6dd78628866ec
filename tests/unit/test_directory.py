from dataclasses import replace

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, Endpoint, EndpointId
from posthouse.engine.directory import Directory

ACME = AccountId(2)


def test_an_endpoint_is_found_by_owner_and_name_or_by_id_until_it_is_dropped() -> None:
    ours, theirs = Endpoint(EndpointId(1), "llm"), Endpoint(EndpointId(2), "llm", account_id=ACME)
    directory = Directory()
    for endpoint in (ours, theirs):
        directory.put(endpoint)
    for owner, endpoint in ((DEFAULT_ACCOUNT, ours), (ACME, theirs)):
        listed = directory.find(owner, "llm")
        assert listed is not None
        assert listed is directory.get(endpoint.id)
        assert listed.endpoint == endpoint
    assert directory.find(AccountId(3), "llm") is None
    directory.drop(ours.id)
    directory.drop(ours.id)
    assert [*directory] == [theirs]
    assert directory.find(DEFAULT_ACCOUNT, "llm") is directory.get(ours.id) is None


def test_a_new_name_takes_the_place_of_the_old_one_and_leaves_who_has_it() -> None:
    directory = Directory()
    listed = directory.put(Endpoint(EndpointId(1), "llm"))
    listed.server = "b"
    renamed = replace(listed.endpoint, name="chat")
    assert directory.put(renamed) is listed is directory.find(DEFAULT_ACCOUNT, "chat")
    assert (listed.endpoint, listed.server) == (renamed, "b")
    assert directory.find(DEFAULT_ACCOUNT, "llm") is None
    directory.put(Endpoint(EndpointId(2), "llm"))
    assert len(directory) == 2
