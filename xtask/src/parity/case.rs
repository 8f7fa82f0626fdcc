//! A case as read: fields of its own, of its scenario or shared inputs, and of `params`.

use anyhow::{Context, Result, bail};
use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use serde_json::Value;

/// One case.
pub struct Case<'a> {
    /// Its name in the report.
    pub id: String,
    value: &'a Value,
    shared: Option<&'a Value>,
}

impl<'a> Case<'a> {
    /// The case with its scenario (`scenarios`) or inputs (`inputs`) from the file's `content`.
    pub fn new(value: &'a Value, content: &'a Value, place: String) -> Self {
        let shared = |list: &str, key: &str| content[list].get(value[key].as_str()?);
        let id = value["id"].as_str().map_or(place.clone(), str::to_owned);
        let family = place.split('#').next().unwrap_or_default();
        Self {
            id: if value["id"].is_string() { format!("{family}/{id}") } else { id },
            value,
            shared: shared("scenarios", "scenario").or_else(|| shared("inputs", "inputs")),
        }
    }

    /// What it calls itself.
    pub fn kind(&self) -> &'a str {
        let name = ["algorithm", "kind", "mode"].iter().find_map(|field| self.value[*field].as_str());
        name.unwrap_or_else(|| {
            if self.has("vpred") {
                "value_loss"
            } else if self.has("entropy") {
                "entropy"
            } else if self.has("probs") {
                "sampling"
            } else {
                "?"
            }
        })
    }

    /// Whether its numbers are far out, which f32 is given room for.
    pub fn is_extreme(&self) -> bool {
        self.id.contains("extreme") || self.value["scenario"].as_str().is_some_and(|s| s.contains("extreme"))
    }

    /// Whether the case itself has a field.
    pub fn has(&self, field: &str) -> bool {
        self.value.get(field).is_some_and(|value| !value.is_null())
    }

    /// A field of the case, or of its scenario.
    pub fn field(&self, name: &str) -> Result<&'a Value> {
        let own = self.value.get(name).filter(|value| !value.is_null());
        own.or_else(|| self.shared?.get(name)).with_context(|| format!("no field {name:?}"))
    }

    /// A parameter, if it is there and not null; parameters stand in `params` or in the case.
    pub fn option(&self, name: &str) -> Option<&'a Value> {
        let found = self.value["params"].get(name).or_else(|| self.value.get(name));
        found.filter(|value| !value.is_null())
    }

    /// A parameter that is a number, if it is there.
    pub fn optional(&self, name: &str) -> Option<f64> {
        self.option(name)?.as_f64()
    }

    /// A parameter that must be there.
    pub fn parameter(&self, name: &str) -> Result<f64> {
        self.optional(name).with_context(|| format!("no parameter {name:?}"))
    }

    /// A parameter in words, empty if there is none.
    pub fn words(&self, name: &str) -> &'a str {
        self.option(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<f64> {
        self.field(name)?.as_f64().with_context(|| format!("{name}: expected a number"))
    }

    /// A list of numbers; true and false count as 1 and 0.
    pub fn list(&self, name: &str) -> Result<Vec<f64>> {
        numbers(self.field(name)?).with_context(|| name.to_owned())
    }

    /// A list of counts.
    pub fn counts(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.list(name)?.into_iter().map(|value| value as usize).collect())
    }

    /// A list of lists of numbers.
    pub fn table(&self, name: &str) -> Result<Vec<Vec<f64>>> {
        let rows = self.field(name)?.as_array().with_context(|| format!("{name}: expected a table"))?;
        rows.iter().map(numbers).collect::<Result<_>>().with_context(|| name.to_owned())
    }

    /// A table as booleans.
    pub fn mask(&self, name: &str) -> Result<Vec<Vec<bool>>> {
        Ok(self
            .table(name)?
            .into_iter()
            .map(|row| row.into_iter().map(|value| value > 0.5).collect())
            .collect())
    }

    /// Three axes of numbers.
    pub fn cube(&self, name: &str) -> Result<Vec<Vec<Vec<f64>>>> {
        let planes = self.field(name)?.as_array().with_context(|| format!("{name}: expected a list"))?;
        let plane = |plane: &Value| -> Result<Vec<Vec<f64>>> {
            plane
                .as_array()
                .with_context(|| format!("{name}: expected a table"))?
                .iter()
                .map(numbers)
                .collect()
        };
        planes.iter().map(plane).collect()
    }
}

fn numbers(value: &Value) -> Result<Vec<f64>> {
    let Some(list) = value.as_array() else { bail!("expected a list of numbers") };
    let number = |value: &Value| match value {
        Value::Bool(flag) => Ok(f64::from(u8::from(*flag))),
        // JSON has no infinity; writers put words.
        Value::String(word) => word.parse::<f64>().with_context(|| format!("{word:?} is no number")),
        _ => value.as_f64().context("expected a number"),
    };
    list.iter().map(number).collect()
}

/// f32 numbers as f64.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The values of a table where the mask is true, row by row.
pub fn kept<T: Copy>(table: &[Vec<T>], mask: &[Vec<bool>]) -> Vec<Vec<T>> {
    let row = |(row, mask): (&Vec<T>, &Vec<bool>)| {
        row.iter().zip(mask).filter(|(_, keep)| **keep).map(|(&value, _)| value).collect()
    };
    table.iter().zip(mask).map(row).collect()
}

/// A tensor in double precision.
pub fn tensor(table: &[Vec<f64>]) -> Tensor<2> {
    let columns = table.first().map_or(0, Vec::len);
    let data = TensorData::new(table.concat(), [table.len(), columns]);
    Tensor::from_data(data, (&Device::default(), DType::F64))
}

/// A tensor of three axes in double precision.
pub fn tensor_3d(cube: &[Vec<Vec<f64>>]) -> Tensor<3> {
    let shape = [
        cube.len(),
        cube.first().map_or(0, Vec::len),
        cube.first().and_then(|p| p.first()).map_or(0, Vec::len),
    ];
    let data = TensorData::new(cube.iter().flatten().flatten().copied().collect::<Vec<f64>>(), shape);
    Tensor::from_data(data, (&Device::default(), DType::F64))
}

/// A vector in double precision.
pub fn vector(values: &[f64]) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (&Device::default(), DType::F64))
}

/// A mask as a tensor.
pub fn mask_tensor(mask: &[Vec<bool>]) -> Tensor<2, Bool> {
    let columns = mask.first().map_or(0, Vec::len);
    Tensor::from_data(TensorData::new(mask.concat(), [mask.len(), columns]), &Device::default())
}

/// The numbers of a tensor.
pub fn numbers_of<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Lengths of the rows as the mask has them.
pub fn lengths(mask: &[Vec<bool>]) -> Vec<usize> {
    mask.iter().map(|row| row.iter().filter(|keep| **keep).count()).collect()
}
