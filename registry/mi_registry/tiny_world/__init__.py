"""tiny-world: a small LLaMA trained on a generated, English-like world, and everything that made it.

| module         | what                                                              |
|----------------|-------------------------------------------------------------------|
| `world`        | the facts: countries, capitals, continents, languages, currencies |
| `words`        | the names, nouns and adjectives of the other skills               |
| `splits`       | what is held out, by rule                                         |
| `sentences`    | one sentence of each skill                                        |
| `rows`         | sentences and random sequences, packed into training rows         |
| `tokenizer`    | the tokenizer, trained on the world                               |
| `prompts`      | the held-out prompts of each skill                                |
| `evaluate`     | the scores on them                                                |
| `train`        | ``python -m mi_registry.tiny_world.train``                        |
| `page`         | the registry page, written from the figures of a training         |
| `dictionaries` | what ``python -m mi_registry.tiny_world.dictionaries`` makes      |
"""
