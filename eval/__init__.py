"""Room 3: from finished runs and the same items to a comparison.

`run` loads each adapter and re-asks with the functions that measured the base (`ask`), `compare` pairs the answers,
`report` shows it.
"""
