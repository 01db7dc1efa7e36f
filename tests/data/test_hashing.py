import hashlib
from dataclasses import replace

from tutelage.data.hashing import hash_file, hash_ids, hash_json, hash_records


def test_hashes_see_content_and_order(kit, tmp_path):
    rows = [kit.text(str(n), "Q", "A") for n in range(2)]
    assert hash_records(rows) == hash_records(list(rows)) != hash_records(rows[::-1])
    assert hash_records(rows) != hash_records([rows[0], replace(rows[1], fields={"x": 1})])
    assert hash_ids([1, 2]) != hash_ids([2, 1]) != hash_ids([1]) and hash_ids([70000]) != hash_ids([70000 - 65536])
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    data = bytes(range(256)) * 9000
    (tmp_path / "x").write_bytes(data)
    assert hash_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    assert hash_file(tmp_path / "x", 1_500_000) == hashlib.sha256(data[:1_500_000]).hexdigest()
