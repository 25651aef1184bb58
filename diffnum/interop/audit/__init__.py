"""An audit of the samplers that people use: order, floor, evaluations and overhead, measured and not looked up.

`bench` has the problem and the judgement; an adapter for each library (`of_diffusers`, `of_k_diffusion`, `of_azula`,
`of_diffnum`, `of_file`) lists its samplers and tells the end points that they really use; `environment` installs a
library where it is missing; `worker` measures in a process of its own; `report` writes what came out. No file here
holds an expected value.
"""
