//! Matrix products of strided views, on one thread: the building block of the fused kernels.

/// A matrix within a slice.
#[derive(Clone, Copy)]
pub struct View<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// `rows` rows of `columns` adjacent values, `row_stride` values apart.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(values.len(), rows, columns, row_stride), "gemm: the view leaves its slice");
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// Rows `first..first + count`.
    pub fn row_range(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "gemm: the rows leave the view");
        Self { values: &self.values[first * self.row_stride..], rows: count, ..self }
    }

    /// Rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let Self { values, rows, columns, row_stride, column_stride } = self;
        Self { values, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }
}

fn fits(len: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= len
}

/// `out = scale a b`, or `out += scale a b`, on this thread; rows of `out` are `stride` values apart.
///
/// # Panics
/// If the inner sizes differ or `out` is too short.
pub fn multiply(out: &mut [f32], stride: usize, accumulate: bool, scale: f32, factors: (View, View)) {
    product((out, stride), accumulate, scale, factors, gemm::Parallelism::None);
}

/// `out = a b`, or `out += a b`, spread over the cores.
///
/// # Panics
/// If the inner sizes differ or `out` is too short.
pub fn multiply_on_all_cores(out: &mut [f32], stride: usize, accumulate: bool, factors: (View, View)) {
    product((out, stride), accumulate, 1.0, factors, gemm::Parallelism::Rayon(0));
}

#[expect(unsafe_code, reason = "the product takes raw pointers; the views' bounds are checked")]
fn product(
    (out, stride): (&mut [f32], usize),
    accumulate: bool,
    scale: f32,
    (a, b): (View, View),
    parallelism: gemm::Parallelism,
) {
    assert_eq!(a.columns, b.rows, "gemm: expected equal inner sizes");
    assert!(fits(out.len(), a.rows, b.columns, stride), "gemm: the output leaves its slice");
    // SAFETY: every index that the strides reach lies within its slice, checked when the views were made and above;
    // `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_and_transposed_views_multiply() {
        // a is the left 2 x 2 of a 2 x 3 table.
        let table = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let a = View::new(&table, 2, 2, 3);
        let mut out = [0.0; 4];
        multiply(&mut out, 2, false, 1.0, (a, a));
        assert_eq!(out, [7.0, 10.0, 15.0, 22.0]);
        multiply(&mut out, 2, true, 2.0, (a, a.transposed()));
        assert_eq!(out, [7.0 + 10.0, 10.0 + 22.0, 15.0 + 22.0, 22.0 + 50.0]);
    }

    #[test]
    #[should_panic(expected = "the view leaves its slice")]
    fn a_view_cannot_leave_its_slice() {
        View::new(&[0.0; 5], 2, 3, 3);
    }
}
