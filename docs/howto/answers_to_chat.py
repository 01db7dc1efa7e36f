"""Stored answers as chat data: python answers_to_chat.py ROWS OUT."""

import json
import sys
from pathlib import Path

from tutelage.core.record import Record

rows, out = map(Path, sys.argv[1:])
with rows.open(encoding="utf-8") as stored, out.open("w", encoding="utf-8") as chat:
    for line in stored:
        record = Record.from_dict(json.loads(line))
        messages = [{"role": p.role, "content": p.content, "trains": p.trains} for p in record.pieces]
        chat.write(json.dumps({"id": record.id, "messages": messages}, ensure_ascii=False) + "\n")
