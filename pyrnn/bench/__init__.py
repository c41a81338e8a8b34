# SPDX-License-Identifier: Apache-2.0
"""The benchmark: layers of this library against every other that is installed, and against the machine's limits.

`pyrnn bench` is its command line and `benchmarks/` its use through pytest-benchmark. Nothing here is imported by
`import pyrnn`, and what a peer needs is imported when that peer is made.
"""
