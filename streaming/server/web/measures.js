// What is drawn: the pictures, the columns in each, their units, and the process's limit: what its job was given, else what the host has.
import { bytes, byteRate, cores, gpus, mebibytes, number } from "./format.js";

// `of` and `what` say whose figure it is, and of what; `tone` names the colours of base.css. A `rate` column counts per
// sample and is shown per second.
const system = (column, more = {}) => ({ column, of: "system", label: "System", tone: "system", rate: false, ...more });
const process = (column, more = {}) => ({ column, of: "process", label: "Process", tone: "process", rate: false, ...more });
const rate = (what, more = {}) => ({ what, rate: true, ...more });

/** What the run's job was given of something, null where nobody knows. */
function given(metadata, name) {
  const value = Number(metadata.tags?.[name]);
  return value > 0 ? value : null;
}

export const PICTURES = [
  {
    id: "cpu", title: "CPU", unit: "cores", format: cores, axisFormat: number,
    limit: (host) => given(host, "limit_cpus") ?? (host.host_vcpus || null), limitName: "CPUs of the job or the host",
    lines: [system("system_cpu_usage"), process("process_cpu_usage")],
  },
  {
    id: "memory", title: "Memory", format: mebibytes, binary: true,
    limit: (host) => given(host, "limit_memory_mib") ?? (host.host_memory_mib || null), limitName: "memory of the job or the host",
    lines: [system("system_memory_used_mib"), process("process_memory_mib")],
  },
  {
    id: "disk", title: "Disk", format: byteRate, limit: () => null,
    lines: [
      system("system_disk_read_bytes", rate("read", { label: "System read" })),
      process("process_disk_read_bytes", rate("read", { label: "Process read" })),
      system("system_disk_write_bytes", rate("write", { label: "System write", tone: "system-out" })),
      process("process_disk_write_bytes", rate("write", { label: "Process write", tone: "process-out" })),
    ],
  },
  {
    id: "network", title: "Network", note: "of the system; a process has no figures of its own", format: byteRate,
    limit: () => null,
    lines: [
      system("system_net_recv_bytes", rate("received", { label: "Received", tone: "process" })),
      system("system_net_sent_bytes", rate("sent", { label: "Sent", tone: "process-out" })),
    ],
  },
  {
    id: "gpu", title: "GPU", unit: "GPUs in use", gpu: true, format: gpus, axisFormat: number,
    limit: (host) => host.host_gpu_count || null, limitName: "GPUs of the host",
    lines: [system("system_gpu_usage"), process("process_gpu_usage")],
  },
  {
    id: "vram", title: "GPU memory", gpu: true, format: mebibytes, binary: true,
    limit: (host) => host.host_gpu_memory_mib || host.host_gpu_vram_mib || null, limitName: "GPU memory of the host",
    lines: [system("system_gpu_vram_mib"), process("process_gpu_vram_mib")],
  },
];

export const COLUMNS = PICTURES.flatMap((picture) => picture.lines.map((entry) => entry.column));

/** The pictures worth drawing: those on GPUs only where there is one. */
export function picturesFor(host, series) {
  const isUsed = (column) => series?.columns[column]?.max.some((value) => value > 0);
  const hasGpu = host.host_gpu_count > 0 || PICTURES.some((p) => p.gpu && p.lines.some((l) => isUsed(l.column)));
  return PICTURES.filter((picture) => !picture.gpu || hasGpu);
}

/** "average 1.2 cores, peak 3.9 cores" of a line, from its figures. */
export function figureText(picture, figure) {
  if (!figure || figure.peak === null) return "no data";
  return `average ${picture.format(figure.average)}, peak ${picture.format(figure.peak)}`;
}

const METADATA_NAMES = {
  project_name: "Project", job_name: "Job", stage_name: "Stage", task_name: "Task", external_run_id: "External run",
  container_image: "Container image", command: "Command", env: "Environment", language: "Language",
  orchestrator: "Orchestrator", executor: "Executor", team: "Team", tags: "Tags",
  host_id: "Host id", host_hostname: "Host", host_name: "Host", host_ip: "Host address",
  host_server_allocation: "Allocation", host_allocation: "Allocation",
  host_vcpus: "vCPUs", host_cpu_model: "CPU model", host_memory_mib: "Memory", host_gpu_model: "GPU model",
  host_gpu_count: "GPUs", host_gpu_memory_mib: "GPU memory", host_gpu_vram_mib: "GPU memory", host_storage_gb: "Storage",
  cloud_vendor_id: "Cloud", cloud_account_id: "Cloud account", cloud_region_id: "Region", cloud_zone_id: "Zone",
  cloud_instance_type: "Instance type",
};

/** Name and text of every metadata value, in a fixed order. */
export function metadataEntries(metadata) {
  return Object.keys(METADATA_NAMES)
    .filter((key) => key in metadata && key !== "tags")
    .map((key) => [METADATA_NAMES[key], metadataText(key, metadata[key])]);
}

function metadataText(key, value) {
  if (key === "command") return commandText(value);
  if (key.endsWith("_mib")) return typeof value === "number" ? mebibytes(value) : String(value);
  if (key === "host_storage_gb") return typeof value === "number" ? bytes(value * 1e9) : String(value);
  return String(value);
}

/** A command as one would type it; on the wire it is a JSON array. */
function commandText(value) {
  try {
    return JSON.parse(value).map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
  } catch {
    return String(value);
  }
}
