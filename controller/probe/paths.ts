/** Where systemd mounts the BPF file system. */
export const BPF_ROOT = '/sys/fs/bpf';
export const DEFAULT_PIN_DIR = `${BPF_ROOT}/slipstream`;
