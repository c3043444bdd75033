"""The configuration that says nothing but the defaults, as a file to start from."""

DEFAULT_DOCUMENT = """\
apiVersion: migfit.io/v1alpha1
kind: MigfitConfiguration
mode: Enforce                 # Enforce | DryRun | Disabled
gpuResource: nvidia.com/gpu
headroom: 20%                 # on top of every footprint
minCompute: 1                 # compute slices, 1-7
whenUnknown: Leave            # no footprint found: Leave, or a quantity to assume
whenFull: [NextLarger, WholeNow, WholeLater, Wait]   # in this order; [] leaves the pod
quota: CountAsGpu             # CountAsGpu | Ignore
allowSpecialProfiles: false   # +me, +gfx and the like without an explicit request
namespaces:                   # globs; migfit's own namespace is always excluded
  include: []                 # none given: all
  exclude: [kube-system, gpu-operator, nvidia-gpu-operator]
schedulers: []                # further schedulers whose pods may be rewritten
queues: Leave                 # pods held by Kueue, PodGroups, scheduling gates: Leave | Rewrite
autoscaled: Auto              # Auto | true | false: whether whole GPUs can be added
inject:                       # what a rewritten pod gets besides its slice
  schedulerName: ""
  tolerations: []
  nodeSelector: {}
  preferUsedNodes: false      # for clusters with the webhook only
usable: {}                    # product -> profile -> quantity: {NVIDIA-B200: {1g.23gb: 20992Mi}}
pools: []                     # nodes that do not exist yet: name, labels, taints, slices
models: []                    # name, gpuMemory, minCompute, images
rules: []                     # name, match, gpuMemory, headroom, minCompute, mode; first match wins
scheduling:
  filter: true
  spreadReplicas: true
consolidation:
  lambda: 0                   # above 0: a larger slice on a used node rather than open an idle GPU
observed:
  raise: false                # an observed peak may raise a declared footprint
staleAfter: 3m                # no event and no bookmark for so long: pods are left
reservationTtl: 30s
backoff:
  restarts: 3
  window: 30m
  hold: 24h
  pending: 5m
  action: Recreate            # Recreate | Report
"""
