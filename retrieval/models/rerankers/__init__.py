"""(query, passage) → score.

cross_encoder.py     `CrossEncoderReranker`; long_passages.py reads long passages in windows
late_interaction.py  `LateInteractionReranker`: MaxSim over an encoder's token vectors
llm.py               `LLMReranker`; llm_prompts.py, llm_loading.py, llm_decoders.py are its parts
time_budget.py       re-ranking as deep as a time budget allows
scores.py            the check of scores and the sigmoid that several share
"""
