//! From a device's name to a device that is there.

use burn::tensor::Device;

use crate::Error;

/// A device that is there, and why it is this one.
#[derive(Debug, Clone)]
pub struct DeviceChoice {
    /// `cpu`, `wgpu` or `cuda:N`.
    pub name: String,
    /// What was found, for `auto`; empty for a device that was asked for.
    pub reason: String,
    /// The device.
    pub device: Device,
}

/// The device named `auto`, `cpu`, `cuda`, `cuda:N` or `wgpu`.
///
/// `auto` takes CUDA, then wgpu on a GPU (not on an adapter that is software), then the CPU: the first that was compiled in
/// and is there. A backend is touched only after it was found.
///
/// # Errors
/// If the name is unknown, its backend was not compiled in, or the machine does not have it.
pub fn choose_device(name: &str) -> Result<DeviceChoice, Error> {
    let Chosen { backend, reason } = choose(name, &ThisMachine)?;
    let named = |name: &str, device: Option<Device>| {
        let device = device.expect("the backend was found, so it was compiled in");
        Ok(DeviceChoice { name: name.to_owned(), reason: reason.clone(), device })
    };
    match backend {
        Backend::Cpu => named("cpu", cpu()),
        Backend::Wgpu => named("wgpu", wgpu()),
        Backend::Cuda(index) => named(&format!("cuda:{index}"), cuda(index)),
    }
}

/// The device of that name, see [`choose_device`].
///
/// # Errors
/// As there.
pub fn open_device(name: &str) -> Result<Device, Error> {
    Ok(choose_device(name)?.device)
}

/// What a backend finds on a machine.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Found {
    /// It was not compiled in.
    #[cfg_attr(
        all(feature = "cuda", feature = "wgpu", not(test)),
        expect(dead_code, reason = "a build with both has nothing that was left out")
    )]
    NotBuilt,
    /// So many GPUs, and whether there is an adapter that is software.
    #[cfg_attr(
        not(any(feature = "cuda", feature = "wgpu", test)),
        expect(dead_code, reason = "a build for the CPU alone looks for no GPU")
    )]
    Gpus { count: usize, software: bool },
}

/// Where devices are looked for.
trait Machine {
    fn has_cpu(&self) -> bool;
    fn cuda(&self) -> Found;
    fn wgpu(&self) -> Found;
}

#[derive(Debug, PartialEq)]
enum Backend {
    Cpu,
    Wgpu,
    Cuda(usize),
}

#[derive(Debug, PartialEq)]
struct Chosen {
    backend: Backend,
    reason: String,
}

fn choose(name: &str, machine: &dyn Machine) -> Result<Chosen, Error> {
    let refused = |reason: String| Error::Device { name: name.to_owned(), reason };
    let missing = |feature: &str| {
        refused(format!("this program was built without it; build with `--features {feature}`"))
    };
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    let index: usize =
        index.parse().map_err(|_| refused(format!("expected a number after the colon, got {index:?}")))?;
    if name.contains(':') && kind != "cuda" {
        return Err(refused("only cuda devices are numbered".to_owned()));
    }
    let asked = |backend| Ok(Chosen { backend, reason: String::new() });
    match kind {
        "auto" => auto(machine).ok_or_else(|| missing("flex")),
        "cpu" if machine.has_cpu() => asked(Backend::Cpu),
        "cpu" => Err(missing("flex")),
        "cuda" => match machine.cuda() {
            Found::NotBuilt => Err(missing("cuda")),
            Found::Gpus { count: 0, .. } => Err(refused(NO_CUDA.to_owned())),
            Found::Gpus { count, .. } if index >= count => Err(refused(format!(
                "expected one of the {count} CUDA devices here, cuda:0 to cuda:{}",
                count - 1
            ))),
            Found::Gpus { .. } => asked(Backend::Cuda(index)),
        },
        "wgpu" => match machine.wgpu() {
            Found::NotBuilt => Err(missing("wgpu")),
            Found::Gpus { count: 0, software: false } => Err(refused(NO_ADAPTER.to_owned())),
            Found::Gpus { .. } => asked(Backend::Wgpu),
        },
        _ => Err(refused("expected auto, cpu, cuda, cuda:N or wgpu".to_owned())),
    }
}

const NO_CUDA: &str = "no CUDA device found (is an NVIDIA driver installed?)";
const NO_ADAPTER: &str = "no adapter found (is a Vulkan, Metal or DirectX driver installed?)";

/// The first backend that is there, and what was found of those before it.
fn auto(machine: &dyn Machine) -> Option<Chosen> {
    let mut reasons = Vec::new();
    match machine.cuda() {
        Found::NotBuilt => reasons.push("built without cuda".to_owned()),
        Found::Gpus { count: 0, .. } => reasons.push(NO_CUDA.to_owned()),
        Found::Gpus { count, .. } => {
            let reason = format!("the first of {count} CUDA device{}", if count == 1 { "" } else { "s" });
            return Some(Chosen { backend: Backend::Cuda(0), reason });
        }
    }
    match machine.wgpu() {
        Found::NotBuilt => reasons.push("built without wgpu".to_owned()),
        Found::Gpus { count: 0, software: false } => reasons.push(NO_ADAPTER.to_owned()),
        Found::Gpus { count: 0, software: true } => {
            reasons
                .push("wgpu has an adapter in software only, which is slower than the CPU itself".to_owned());
        }
        Found::Gpus { .. } => {
            reasons.push("a GPU that wgpu reaches".to_owned());
            return Some(Chosen { backend: Backend::Wgpu, reason: reasons.join(", ") });
        }
    }
    machine.has_cpu().then(|| Chosen { backend: Backend::Cpu, reason: reasons.join(", ") })
}

/// The machine that the program runs on.
struct ThisMachine;

impl Machine for ThisMachine {
    fn has_cpu(&self) -> bool {
        cfg!(feature = "flex")
    }

    /// Burn looks for the driver's library before it calls it.
    #[cfg(feature = "cuda")]
    fn cuda(&self) -> Found {
        let devices = Device::enumerate(burn::tensor::DeviceType::Cuda);
        Found::Gpus { count: devices.len(), software: false }
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(&self) -> Found {
        Found::NotBuilt
    }

    #[cfg(feature = "wgpu")]
    fn wgpu(&self) -> Found {
        let devices = Device::enumerate(burn::tensor::DeviceType::Wgpu);
        let rasterizer = Device::wgpu(burn::tensor::DeviceKind::Cpu);
        let software = devices.iter().any(|device| *device == rasterizer);
        Found::Gpus { count: devices.iter().filter(|device| **device != rasterizer).count(), software }
    }

    #[cfg(not(feature = "wgpu"))]
    fn wgpu(&self) -> Found {
        Found::NotBuilt
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a CPU, and what CUDA and wgpu find on it.
    struct Made([Found; 2]);

    impl Machine for Made {
        fn has_cpu(&self) -> bool {
            true
        }
        fn cuda(&self) -> Found {
            self.0[0]
        }
        fn wgpu(&self) -> Found {
            self.0[1]
        }
    }

    const NONE: Found = Found::Gpus { count: 0, software: false };
    const SOFTWARE: Found = Found::Gpus { count: 0, software: true };
    const TWO: Found = Found::Gpus { count: 2, software: true };

    #[test]
    fn auto_takes_what_is_there_and_says_why() {
        for (found, backend, reason) in [
            ([Found::NotBuilt, Found::NotBuilt], Backend::Cpu, "built without cuda, built without wgpu"),
            ([NONE, Found::NotBuilt], Backend::Cpu, "no CUDA device found"),
            ([NONE, NONE], Backend::Cpu, "no adapter found"),
            ([NONE, SOFTWARE], Backend::Cpu, "software only"),
            ([NONE, TWO], Backend::Wgpu, "no CUDA device found"),
            ([Found::NotBuilt, TWO], Backend::Wgpu, "a GPU that wgpu reaches"),
            ([TWO, TWO], Backend::Cuda(0), "the first of 2 CUDA devices"),
        ] {
            let chosen = choose("auto", &Made(found)).unwrap();
            assert_eq!(chosen.backend, backend, "{found:?}");
            assert!(chosen.reason.contains(reason), "{found:?}: {}", chosen.reason);
        }
    }

    #[test]
    fn a_device_that_was_asked_for_and_is_not_there_is_one_line() {
        for (name, found, reason) in [
            ("cuda", [NONE, TWO], "no CUDA device found"),
            ("cuda:2", [TWO, NONE], "cuda:0 to cuda:1"),
            ("cuda", [Found::NotBuilt, TWO], "built without it; build with `--features cuda`"),
            ("wgpu", [TWO, NONE], "no adapter found"),
            ("wgpu", [TWO, Found::NotBuilt], "--features wgpu"),
        ] {
            let error = choose(name, &Made(found)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("device {name}: ")) && error.contains(reason), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        // An adapter in software is taken by those who ask for it.
        assert_eq!(choose("wgpu", &Made([NONE, SOFTWARE])).unwrap().backend, Backend::Wgpu);
        assert_eq!(choose("cuda:1", &Made([TWO, NONE])).unwrap().backend, Backend::Cuda(1));
    }
}
