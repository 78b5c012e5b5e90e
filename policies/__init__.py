"""The policy language of a silo's compliance officer: closed YAML, a pure engine, reasons with positions.

`policies.model` reads a policy, `policies.request` has what is asked, `policies.engine` decides,
`policies.rules` is the table of rules, `policies.applies` what laws ask for, `policies.floor` the floor of a
federation. `policies.document` reads any closed YAML document of the project.
"""
