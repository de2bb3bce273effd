"""Which master owns a slot, by what the nodes themselves say."""

from live.nodes import claims

ANSWER = """\
aaa 127.0.0.1:7000@17000,host-a myself,master - 0 0 3 connected 0-5460 9000 [93-<-bbb]
bbb :7001@17001 master,fail - 1 1 2 disconnected 5461-8999 9001-10922
ccc 127.0.0.1:7002@17002 slave aaa 0 0 3 connected
ddd 127.0.0.1:7003@17003 master - 0 0 0 connected
eee fe80::1:7004@17004 master - 0 0 5 connected 10923-16383
"""


def test_masters_with_slots_claim_them_as_of_their_epoch() -> None:
    found = claims(ANSWER, ("10.0.0.9", 1))
    assert {id: (claim.epoch, claim.address, list(claim.slots)) for id, claim in found.items()} == {
        "aaa": (3, ("127.0.0.1", 7000), [(0, 5460), (9000, 9000)]),
        "bbb": (2, ("10.0.0.9", 7001), [(5461, 8999), (9001, 10922)]),
        "eee": (5, ("fe80::1", 7004), [(10923, 16383)]),
    }
