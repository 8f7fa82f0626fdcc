//! In which numbers a policy computes.

use burn::tensor::{DType, Device, FloatDType};
use serde::{Deserialize, Serialize};

use crate::{Error, open_device};

/// The format of weights and activations. Optimizer, log-probabilities and losses are in 32 bits always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits, on every device.
    #[default]
    F32,
    /// bfloat16, with a 32-bit copy of the weights in the optimizer; on devices that compute in it.
    Bf16,
}

/// The device of that name (see [`open_device`]), on which numbers are of the given precision. A process can ask a device
/// for one precision only, before anything else uses it.
///
/// # Errors
/// If the device cannot be opened, or does not compute in that precision.
pub fn open_device_with(name: &str, precision: Precision) -> Result<Device, Error> {
    let mut device = open_device(name)?;
    if precision == Precision::F32 {
        return Ok(device);
    }
    let refused = |reason: &str| Error::Device { name: name.to_owned(), reason: reason.to_owned() };
    if kyoka_nn::caches_on_host(&device) {
        return Err(refused("precision bf16: the CPU computes in 32 bits; take a GPU or precision f32"));
    }
    if !device.supports_dtype(DType::BF16) {
        return Err(refused("precision bf16: the device does not compute in it; take precision f32"));
    }
    let configured = device.configure(FloatDType::BF16);
    configured.map_err(|error| refused(&format!("precision bf16: {error}")))?;
    Ok(device)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_refuses_bf16_and_says_why() {
        assert!(open_device_with("cpu", Precision::F32).is_ok());
        let error = open_device_with("cpu", Precision::Bf16).unwrap_err().to_string();
        assert!(error.contains("cpu") && error.contains("32 bits"), "{error}");
    }
}
