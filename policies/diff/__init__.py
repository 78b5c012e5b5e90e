"""What one policy allows and another does not, found by asking both about every request that could tell them apart.

`spans` cuts numbers, days and the week where a policy may change its mind, `facets` makes the requests, `compare` asks,
`groups` puts what was found in order.
"""
