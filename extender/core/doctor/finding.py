"""What the doctor can find: one closed list, each entry with its severity, why it matters, what to do."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class Severity(StrEnum):
    """How bad a finding is. Errors and warnings are what exit code 1 stands for."""

    ERROR = "error"
    """migfit does not do its work, or pods are worse off."""
    WARNING = "warning"
    """It does less than it could, or will not for long."""
    INFO = "info"
    """Worth knowing; often meant so."""


class Entry(NamedTuple):
    """A kind of finding in words."""

    severity: Severity
    why: str
    """Why it matters, in one line."""
    remedy: str
    """What to do, in one line."""


class Id(StrEnum):
    """A stable code. Codes are added where a case needs its own remedy, and never renamed."""

    WEBHOOK_MISSING = "WebhookMissing"
    WEBHOOK_UNTRUSTED = "WebhookUntrusted"
    WEBHOOK_WITHOUT_ENDPOINTS = "WebhookWithoutEndpoints"
    CERTIFICATE_MISSING = "CertificateMissing"
    CERTIFICATE_EXPIRED = "CertificateExpired"
    CERTIFICATE_ENDING = "CertificateEnding"
    WEBHOOK_PATH = "WebhookPath"
    WEBHOOK_OPERATIONS = "WebhookOperations"
    WEBHOOK_UPDATES_MISSING = "WebhookUpdatesMissing"
    WEBHOOK_FAILS_CLOSED = "WebhookFailsClosed"
    WEBHOOK_TIMEOUT = "WebhookTimeout"
    WEBHOOK_NOT_REINVOKED = "WebhookNotReinvoked"
    WEBHOOK_UNCONDITIONAL = "WebhookUnconditional"
    WEBHOOK_GPU_RESOURCE = "WebhookGpuResource"
    WEBHOOK_NAMESPACES = "WebhookNamespaces"

    CONFIG_MISSING = "ConfigMissing"
    CONFIG_REFUSED = "ConfigRefused"
    MODE_DRY_RUN = "ModeDryRun"
    MODE_DISABLED = "ModeDisabled"

    NO_GPU_NODES = "NoGpuNodes"
    NO_MIXED_NODES = "NoMixedNodes"
    STRATEGY_SINGLE = "StrategySingle"
    STRATEGY_NONE = "StrategyNone"
    STRATEGY_UNLABELLED = "StrategyUnlabelled"
    STRATEGY_INVALID = "StrategyInvalid"
    LABELS_MISSING = "LabelsMissing"
    CAPACITY_STALE = "CapacityStale"
    RECONFIGURING = "Reconfiguring"
    RECONFIGURATION_STUCK = "ReconfigurationStuck"
    RECONFIGURATION_FAILED = "ReconfigurationFailed"
    MEMORY_OFF_CATALOGUE = "MemoryOffCatalogue"
    PRODUCT_UNKNOWN = "ProductUnknown"
    SLICES_SHARED = "SlicesShared"
    DRIVER_TOO_OLD = "DriverTooOld"
    DRIVER_FAULT = "DriverFault"
    DRIVER_CDMM = "DriverCdmm"
    PLUGIN_STRATEGY = "PluginStrategy"
    PLUGIN_PROFILES = "PluginProfiles"
    PLUGIN_POLICY = "PluginPolicy"

    EXTENDER_MISSING = "ExtenderMissing"
    EXTENDER_SETTINGS = "ExtenderSettings"
    MANAGED_RESOURCES = "ManagedResources"
    SLICES_UNCOUNTED = "SlicesUncounted"
    SCHEDULER_LEASE_MISSING = "SchedulerLeaseMissing"
    SCHEDULER_LEASE_OLD = "SchedulerLeaseOld"

    KUBERNETES_TOO_OLD = "KubernetesTooOld"
    VERSIONS_UNEQUAL = "VersionsUnequal"
    CLOCK_SKEWED = "ClockSkewed"
    PODS_UNDECIDED = "PodsUndecided"
    UNREADABLE = "Unreadable"

    @property
    def entry(self) -> Entry:
        """Severity, why, remedy."""
        return ENTRIES[self]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found."""

    id: Id
    objects: tuple[str, ...]
    """What it is about: `node gpu-7`, `MutatingWebhookConfiguration migfit`."""
    what: str
    """One line with the figures of this case."""

    def fields(self) -> dict[str, Any]:
        """As JSON would hold it."""
        severity, why, remedy = self.id.entry
        return {
            "id": str(self.id),
            "severity": str(severity),
            "objects": list(self.objects),
            "what": self.what,
            "why": why,
            "remedy": remedy,
        }


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

ENTRIES: dict[Id, Entry] = {
    # --- the webhook -----------------------------------------------------------------------------
    Id.WEBHOOK_MISSING: Entry(
        _E,
        "The API server does not know of migfit, so no pod is decided on.",
        "Apply the manifests or upgrade the release; the MutatingWebhookConfiguration is part of it.",
    ),
    Id.WEBHOOK_UNTRUSTED: Entry(
        _E,
        "The API server cannot trust the webhook, passes it over, and every pod keeps its whole GPU.",
        "See who writes caBundle: migfit itself (its log says why not) or cert-manager's cainjector.",
    ),
    Id.WEBHOOK_WITHOUT_ENDPOINTS: Entry(
        _E,
        "The API server finds nobody to ask, and every pod keeps its whole GPU.",
        "Look at the pods of the Deployment migfit; /readyz of one that is not ready says why.",
    ),
    Id.CERTIFICATE_MISSING: Entry(
        _E,
        "Without a certificate the webhook does not start, and every pod keeps its whole GPU.",
        "See who should make it: migfit itself (its log says why not) or cert-manager.",
    ),
    Id.CERTIFICATE_EXPIRED: Entry(
        _E,
        "The API server passes the webhook over, and every pod keeps its whole GPU.",
        "See why it was not renewed: migfit's log, or `kubectl describe certificate` of cert-manager.",
    ),
    Id.CERTIFICATE_ENDING: Entry(
        _W,
        "It should have been renewed at two thirds of its life; once it ends, pods are passed over.",
        "See why it was not renewed: migfit's log, or `kubectl describe certificate` of cert-manager.",
    ),
    Id.WEBHOOK_PATH: Entry(
        _E,
        "The server answers /mutate only; anything else is 404, and pods are passed over.",
        "Set clientConfig.service.path to /mutate.",
    ),
    Id.WEBHOOK_OPERATIONS: Entry(
        _E,
        "Pods are decided on when they are created; what else is sent only makes requests wait.",
        "Take the rules from the manifests: CREATE of pods, and UPDATE in an entry of its own.",
    ),
    Id.WEBHOOK_UPDATES_MISSING: Entry(
        _W,
        "A second `kubectl apply` of a bare pod that was rewritten is refused (422).",
        "Take the second entry from the manifests: UPDATE of pods that we rewrote.",
    ),
    Id.WEBHOOK_FAILS_CLOSED: Entry(
        _E,
        "While migfit is away no GPU pod can be created at all.",
        "Set failurePolicy to Ignore: without us a pod runs as before, on a whole GPU.",
    ),
    Id.WEBHOOK_TIMEOUT: Entry(
        _W,
        "So long every GPU pod waits when migfit hangs; a decision takes milliseconds.",
        "Set timeoutSeconds to 3.",
    ),
    Id.WEBHOOK_NOT_REINVOKED: Entry(
        _W,
        "A LimitRange or another webhook may put the GPU back beside the slice; nobody removes it.",
        "Set reinvocationPolicy to IfNeeded.",
    ),
    Id.WEBHOOK_UNCONDITIONAL: Entry(
        _W,
        "Every pod of the cluster waits for us, also those without a GPU.",
        "Take matchConditions from the manifests.",
    ),
    Id.WEBHOOK_GPU_RESOURCE: Entry(
        _E,
        "Pods that ask for the configured gpuResource are never sent to us.",
        "Name the same resource in matchConditions and in the configuration.",
    ),
    Id.WEBHOOK_NAMESPACES: Entry(
        _W,
        "What a cluster needs to start, and migfit itself, must not wait for migfit.",
        "Take namespaceSelector from the manifests: NotIn kube-system and migfit's own namespace.",
    ),
    # --- the configuration -----------------------------------------------------------------------
    Id.CONFIG_MISSING: Entry(
        _E,
        "migfit does not start without it.",
        "Make the ConfigMap, with the configuration under the key config.yaml.",
    ),
    Id.CONFIG_REFUSED: Entry(
        _E,
        "Replicas keep the last good one until they restart, and then do not start.",
        "Mend what `migfit config check` names.",
    ),
    Id.MODE_DRY_RUN: Entry(
        _I,
        "Decisions are told, and no pod is changed.",
        "Set mode: Enforce once the decisions in the audit log are what you want.",
    ),
    Id.MODE_DISABLED: Entry(
        _I,
        "Every pod is left as it is.",
        "Set mode: DryRun or Enforce.",
    ),
    # --- nodes -----------------------------------------------------------------------------------
    Id.NO_GPU_NODES: Entry(
        _W,
        "There is nothing to decide on.",
        "See whether the device plugin runs: nodes should have GPUs among their allocatable.",
    ),
    Id.NO_MIXED_NODES: Entry(
        _W,
        "No node offers slices by name, so pods are left as NoReachableMig.",
        "Partition a node with mig-manager, and run device plugin and GFD with MIG strategy mixed.",
    ),
    Id.STRATEGY_SINGLE: Entry(
        _I,
        "The GPU resource is a slice there already, so pods are not rewritten for these nodes.",
        "Nothing, if meant so; else MIG strategy mixed, and restart device plugin and GFD.",
    ),
    Id.STRATEGY_NONE: Entry(
        _I,
        "MIG is ignored there, so these nodes offer whole cards only.",
        "Nothing, if meant so; else MIG strategy mixed, and a layout by mig-manager.",
    ),
    Id.STRATEGY_UNLABELLED: Entry(
        _W,
        "Whether slices may be handed out by name is guessed from what is allocatable.",
        "Run GPU Feature Discovery with MIG strategy mixed, as the device plugin does.",
    ),
    Id.STRATEGY_INVALID: Entry(
        _E,
        "Strategy single needs the same profile on every GPU; otherwise nothing is advertised.",
        "Give every GPU of the node the same layout, or change to MIG strategy mixed.",
    ),
    Id.LABELS_MISSING: Entry(
        _W,
        "Without labels neither product nor usable memory is known, and such slices are not used.",
        "Run GPU Feature Discovery on these nodes.",
    ),
    Id.CAPACITY_STALE: Entry(
        _W,
        "The device plugin does not look again after a change of layout; pods may be sent to slices "
        "that are gone, or kept from some that are there.",
        "Restart the device plugin on the node; if slices stay at 0, look at its log.",
    ),
    Id.RECONFIGURING: Entry(
        _I,
        "While the layout changes the node offers no GPU at all; it is passed over.",
        "Nothing; it takes minutes, or a reboot.",
    ),
    Id.RECONFIGURATION_STUCK: Entry(
        _W,
        "While the layout changes the node offers no GPU at all; mig-manager may never finish.",
        "Read mig-manager's log; if labels nvidia.com/gpu.deploy.* say paused-for-mig-change, set "
        "them to true.",
    ),
    Id.RECONFIGURATION_FAILED: Entry(
        _E,
        "The layout may be half changed; what the node offers is not what was asked for.",
        "End the pods on the GPUs in question and set the label nvidia.com/mig.config again.",
    ),
    Id.MEMORY_OFF_CATALOGUE: Entry(
        _W,
        "It is more than 15 % off what that profile has on that product, so the node's slices of "
        "that name are not used.",
        "Compare with `nvidia-smi mig -lgip` on the node; if it is right, say so in `usable`.",
    ),
    Id.PRODUCT_UNKNOWN: Entry(
        _I,
        "Usable memory is taken from labels only, and bandwidth and layouts are not known.",
        "Report the product, with `nvidia-smi mig -lgip`.",
    ),
    Id.SLICES_SHARED: Entry(
        _W,
        "Several pods on one slice have no memory of their own, so the name is no candidate for any "
        "pod that reaches these nodes.",
        "Take the MIG resources out of the device plugin's sharing, or give such nodes a taint.",
    ),
    Id.DRIVER_TOO_OLD: Entry(
        _W,
        "NVIDIA supports MIG on this product from a later driver on.",
        "Upgrade the driver.",
    ),
    Id.DRIVER_FAULT: Entry(
        _W,
        "This driver is known to be at fault with MIG on such a node.",
        "Upgrade the driver to the version named; until then keep slices and whole GPUs apart.",
    ),
    Id.DRIVER_CDMM: Entry(
        _I,
        "NVIDIA has documented CDMM, the driver's way to manage memory on Grace hosts, as not "
        "compatible with MIG.",
        "If pods on slices fail there, see the release notes of driver and GPU Operator on CDMM.",
    ),
    Id.PLUGIN_STRATEGY: Entry(
        _W,
        "Device plugin and node labels disagree about the MIG strategy: labels promise slices that "
        "are not handed out by name.",
        "Set the same MIG strategy for device plugin and GPU Feature Discovery (GPU Operator: "
        "mig.strategy).",
    ),
    Id.PLUGIN_PROFILES: Entry(
        _W,
        "Device plugins before v0.20.0 advertise +gfx, +me.all and -me slices under the plain name.",
        "Upgrade the device plugin to v0.20.0 or later.",
    ),
    Id.PLUGIN_POLICY: Entry(
        _I,
        "It packs what is shared on one slice, never slices on one GPU: inside a node the device "
        "plugin picks any GPU.",
        "Nothing.",
    ),
    # --- the scheduler ---------------------------------------------------------------------------
    Id.EXTENDER_MISSING: Entry(
        _W,
        "The scheduler does not ask migfit, and spreads pods as ever.",
        "Take `extenders` from the sample of the scheduler's configuration.",
    ),
    Id.EXTENDER_SETTINGS: Entry(
        _W,
        "Pods may fail to be scheduled while migfit is away, or every pod waits for it.",
        "Take `extenders` from the sample of the scheduler's configuration.",
    ),
    Id.MANAGED_RESOURCES: Entry(
        _W,
        "The scheduler does not ask migfit about pods that get these resources; there are no wildcards.",
        "Add them to managedResources, with ignoredByScheduler: false.",
    ),
    Id.SLICES_UNCOUNTED: Entry(
        _E,
        "Nobody counts them in the scheduler, and the kubelet refuses pods that are one too many.",
        "Set ignoredByScheduler: false.",
    ),
    Id.SCHEDULER_LEASE_MISSING: Entry(
        _W,
        "While that scheduler is not seen alive, rewritten pods keep the scheduler they came with.",
        "Start the scheduler of `inject.schedulerName` with a Lease of that name, or name none.",
    ),
    Id.SCHEDULER_LEASE_OLD: Entry(
        _W,
        "While that scheduler is not seen alive, rewritten pods keep the scheduler they came with; "
        "those it was given before wait.",
        "Look at the pods of that scheduler.",
    ),
    # --- the rest --------------------------------------------------------------------------------
    Id.KUBERNETES_TOO_OLD: Entry(
        _E,
        "Before 1.30 matchConditions of webhooks cannot be relied on.",
        "Upgrade the cluster.",
    ),
    Id.VERSIONS_UNEQUAL: Entry(
        _W,
        "Replicas of different releases may decide differently, which is meant for an upgrade only.",
        "Wait for the rollout, or see why it does not end: `kubectl rollout status`.",
    ),
    Id.CLOCK_SKEWED: Entry(
        _W,
        "Certificates and Leases are judged by the clock; this machine's differs from the API server's.",
        "Set both by NTP.",
    ),
    Id.PODS_UNDECIDED: Entry(
        _I,
        "They were created while the webhook was out of reach, so nobody decided on them.",
        "Delete a pod to have it created again, if a slice is worth it.",
    ),
    Id.UNREADABLE: Entry(
        _W,
        "What depends on it was not examined.",
        "Ask with the rights to read it: `kubectl auth can-i` tells what is missing.",
    ),
}
