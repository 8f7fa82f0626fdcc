//! kyoka-testing
