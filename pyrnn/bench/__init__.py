# SPDX-License-Identifier: Apache-2.0
"""The benchmark: layers of this library against every other that is installed, and the machine's limits.

`pyrnn bench` is its command line and `benchmarks/` its use through pytest-benchmark. `import pyrnn` imports
nothing of it, and what a peer needs is imported when that peer is made.
"""
