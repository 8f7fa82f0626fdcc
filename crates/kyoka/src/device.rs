//! From a device's name to a device.

use burn::tensor::Device;

use crate::Error;

/// The device named `auto`, `cpu`, `cuda`, `cuda:N` or `wgpu`.
///
/// `auto` takes CUDA, then wgpu, then the CPU, as far as they were compiled in.
///
/// # Errors
/// If the name is unknown or its backend was not compiled in.
pub fn open_device(name: &str) -> Result<Device, Error> {
    let missing = |feature: &str| Error::Device {
        name: name.to_owned(),
        reason: format!("this program was built without the feature `{feature}`"),
    };
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    let index: usize = index.parse().map_err(|_| Error::Device {
        name: name.to_owned(),
        reason: format!("expected a number after the colon, got {index:?}"),
    })?;
    if name.contains(':') && kind != "cuda" {
        return Err(Error::Device {
            name: name.to_owned(),
            reason: "only cuda devices are numbered".to_owned(),
        });
    }
    match meant(kind) {
        "cpu" => cpu().ok_or_else(|| missing("flex")),
        "cuda" => cuda(index).ok_or_else(|| missing("cuda")),
        "wgpu" => wgpu().ok_or_else(|| missing("wgpu")),
        _ => Err(Error::Device {
            name: name.to_owned(),
            reason: "expected auto, cpu, cuda, cuda:N or wgpu".to_owned(),
        }),
    }
}

/// The device that a name means: what `auto` takes here, and the name itself otherwise.
pub(crate) fn meant(name: &str) -> &str {
    match name {
        "auto" if cfg!(feature = "cuda") => "cuda",
        "auto" if cfg!(feature = "wgpu") => "wgpu",
        "auto" => "cpu",
        _ => name,
    }
}

#[cfg(feature = "flex")]
fn cpu() -> Option<Device> {
    Some(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn cpu() -> Option<Device> {
    None
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Option<Device> {
    Some(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Option<Device> {
    None
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Option<Device> {
    Some(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Option<Device> {
    None
}
