"""GPUs that are not at hand, for which JAX's CUDA plugin compiles all the same."""

from __future__ import annotations

from importlib.util import find_spec

from trm_jax.planning import Device

PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
# Of what is compiled without a device nothing can be timed, and Triton's products are chosen by timing.
FLAGS = "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"
# Compute capability -> bytes of shared memory of a core, threads of a core, bytes of the second cache.
_CORES = {
    (8, 0): (167936, 2048, 40 << 20),
    (8, 6): (102400, 1536, 6 << 20),
    (8, 9): (102400, 1536, 72 << 20),
    (9, 0): (233472, 2048, 50 << 20),
    (12, 0): (102400, 1536, 96 << 20),
}
# By the name in the table: compute capability and cores.
_CHIPS = {
    "h200": ((9, 0), 132),
    "h100": ((9, 0), 132),
    "a100": ((8, 0), 108),
    "2xa100": ((8, 0), 108),
    "l40s": ((8, 9), 142),
    "a40": ((8, 6), 84),
    "5090": ((12, 0), 170),
    "4090": ((8, 9), 128),
    "3090": ((8, 6), 82),
    "a10": ((8, 6), 72),
}


def there() -> bool:
    """Whether the plugin is installed."""
    return find_spec("jax_plugins") is not None and any(map(find_spec, PLUGINS))


def devices(device: Device) -> list:
    """The JAX devices of one that the table names, which only compile."""
    from jax.experimental import topologies

    (major, minor), cores = _CHIPS[device.name]
    shared, threads, cache = _CORES[major, minor]
    told = f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          core_count: {cores} fpus_per_core: 128 threads_per_warp: 32
          threads_per_block_limit: 1024 threads_per_core_limit: {threads}
          shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared - 1024}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          memory_bandwidth: {device.bandwidth_tb_s * 1e12:.0f} device_memory_size: {device.memory_gb * 1e9:.0f}
          l2_cache_size: {cache} clock_rate_ghz: 1.8 name: "{device.title}"
          driver_version: "13.0.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0"
          dnn_version: "9.10.0"
        }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        device_description_str: "{device.title}"
    """
    how = {"topology": f"1x1x{device.chips}", "target_config": told}
    return list(topologies.get_topology_desc(platform="cuda", topology_name="", **how).devices)
