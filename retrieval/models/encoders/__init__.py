"""Text → vectors.

bi_encoder.py      `BiEncoder`, for every model with one vector per text; settings.py its settings
bge_m3.py          `BGEM3`: dense vectors, term weights and token vectors from one pass
bge_m3_heads.py    its two further heads; bge_m3_scores.py its outputs and how they score pairs
vectors.py         the check and normalisation that both share
"""
