//! A wgpu device gives the CPU's numbers: meant for a software Vulkan driver, runs on any.
//!
//! Debian: `apt-get install mesa-vulkan-drivers libvulkan1`, then
//! `XDG_RUNTIME_DIR=/tmp cargo test -p kyoka --features wgpu --test software_vulkan`.

#[test]
fn wgpu_agrees_with_the_cpu_in_passes_sampling_and_a_step_of_training() {
    let comparisons = kyoka::check_device("wgpu").expect("a wgpu device and the CPU");
    assert_eq!(comparisons.len(), 10);
    for comparison in &comparisons {
        assert!(comparison.passed, "{comparison:?} of {comparisons:#?}");
    }
}
