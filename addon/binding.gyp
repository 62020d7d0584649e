# Builds build/Release/slipstream_bpf.node against the system's libbpf (1.1 or newer).
{
  "targets": [
    {
      "target_name": "slipstream_bpf",
      "sources": [
        "src/arguments.cc",
        "src/bpf_link.cc",
        "src/bpf_map.cc",
        "src/bpf_object.cc",
        "src/bpf_program.cc",
        "src/btf_layout.cc",
        "src/cgroup.cc",
        "src/cgroup_list.cc",
        "src/cgroup_name.cc",
        "src/directory_lock.cc",
        "src/file_descriptor.cc",
        "src/filesystem.cc",
        "src/kernel.cc",
        "src/libbpf_log.cc",
        "src/module.cc",
        "src/native_error.cc",
        "src/pin.cc",
        "src/rcu_barrier.cc",
        "src/ring_buffer.cc",
        "src/send_datagram.cc",
      ],
      "defines": [
        "NAPI_VERSION=8",
        "NODE_ADDON_API_CPP_EXCEPTIONS_ALL",
        # In a thread that is being terminated, throwing fails too; that must not abort the process.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17"],
      "cflags_cc": [
        "-std=gnu++20",
        "-fexceptions",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Werror",
        "<!@(pkg-config --cflags libbpf)",
      ],
      "libraries": ["<!@(pkg-config --libs libbpf)"],
    }
  ]
}
