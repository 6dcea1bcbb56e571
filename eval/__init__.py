"""From finished runs and the same items to a comparison.

`run` loads each adapter and re-asks with the functions that measured the base (`measure`), `compare` pairs the answers,
`report` shows it.
"""
