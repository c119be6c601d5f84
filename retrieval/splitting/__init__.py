"""`Document` → `Passage`: where passages begin and end, and their ids.

splitter.py            `Splitter`, `passage_id`, `document_hash`: start here
boundaries.py          where the passages of one long document begin and end
markdown_structure.py  where headings, code fences, paragraphs, sentences and words begin
"""
