//! How parameters here are made of tensors in a checkpoint.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

/// One parameter and the tensors on disk it is made of.
///
/// Hugging Face checkpoints keep a linear weight as `[d_output, d_input]`; here it is `[d_input, d_output]`, and several
/// projections of one input stand side by side in one matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightRule {
    /// Name of the parameter here.
    pub parameter: String,
    /// Names on disk; their rows come one after the other.
    pub tensors: Vec<String>,
    /// Whether rows and columns are exchanged. Further dimensions of a tensor on disk count as columns.
    pub transposed: bool,
}

impl WeightRule {
    /// A tensor taken as it is.
    pub fn same(parameter: impl Into<String>, tensor: impl Into<String>) -> Self {
        Self { parameter: parameter.into(), tensors: vec![tensor.into()], transposed: false }
    }

    /// The weight, and with `bias` the bias, of linear maps side by side: `<name>.weight`, `<name>.bias`.
    pub fn linear(parameter: &str, names: &[String], bias: bool) -> Vec<Self> {
        let rule = |part: &str, transposed| Self {
            parameter: format!("{parameter}.{part}"),
            tensors: names.iter().map(|name| format!("{name}.{part}")).collect(),
            transposed,
        };
        let bias = bias.then(|| rule("bias", false));
        std::iter::once(rule("weight", true)).chain(bias).collect()
    }

    /// The parameter's value; its tensors are taken out of `tensors`.
    ///
    /// # Errors
    /// Names a tensor that is missing, or whose columns differ from those of its neighbours.
    pub fn assemble(&self, tensors: &mut BTreeMap<String, TensorData>) -> Result<TensorData, String> {
        let mut rows = 0;
        let mut shape: Option<Vec<usize>> = None;
        let mut values: Vec<f32> = Vec::new();
        for name in &self.tensors {
            let tensor = tensors.remove(name).ok_or_else(|| format!("{name}: missing"))?;
            let columns = tensor.shape()[1..].to_vec();
            match &shape {
                Some(expected) if *expected != columns => {
                    return Err(format!("{name}: expected rows of shape {expected:?}, got {columns:?}"));
                }
                _ => shape = Some(columns),
            }
            rows += tensor.shape()[0];
            values.extend(tensor.iter::<f32>());
        }
        let columns = shape.unwrap_or_default();
        if !self.transposed {
            return Ok(TensorData::new(values, [vec![rows], columns].concat()));
        }
        let width: usize = columns.iter().product();
        let turned = (0..width).flat_map(|column| (0..rows).map(move |row| (row, column)));
        let turned: Vec<f32> = turned.map(|(row, column)| values[row * width + column]).collect();
        Ok(TensorData::new(turned, vec![width, rows]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> BTreeMap<String, TensorData> {
        [
            ("q.weight", TensorData::new(vec![1.0_f32, 2.0, 3.0, 4.0], [2, 2])),
            ("k.weight", TensorData::new(vec![5.0_f32, 6.0], [1, 2])),
            ("v.weight", TensorData::new(vec![7.0_f32], [1, 1])),
        ]
        .map(|(name, data)| (name.to_owned(), data))
        .into()
    }

    #[test]
    fn projections_stand_side_by_side() {
        let rules = WeightRule::linear("qk", &["q".into(), "k".into()], false);
        let weight = rules[0].assemble(&mut tensors()).unwrap();
        assert_eq!(weight.shape().to_vec(), [2, 3]);
        assert_eq!(weight.try_to_vec::<f32>().unwrap(), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn faults_name_the_tensor() {
        let missing = WeightRule::same("a", "nothing").assemble(&mut tensors()).unwrap_err();
        assert_eq!(missing, "nothing: missing");
        let rules = WeightRule::linear("qv", &["q".into(), "v".into()], false);
        let misshapen = rules[0].assemble(&mut tensors()).unwrap_err();
        assert_eq!(misshapen, "v.weight: expected rows of shape [2], got [1]");
    }
}
