"""From finished runs to a comparison with the base on the same items.

`run` loads each adapter and asks it with the functions that measured the base (`measure`), `compare` pairs the answers,
`report` shows the result.
"""
