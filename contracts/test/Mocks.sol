// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {Escrow} from "../src/Escrow.sol";

/// @notice Takes 1 % of every transfer.
contract FeeToken is ERC20("fee", "FEE") {
    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (from != address(0) && to != address(0)) {
            super._update(from, address(0xFEE), amount / 100);
            amount -= amount / 100;
        }
        super._update(from, to, amount);
    }
}

/// @notice Calls the escrow back in the middle of a transfer.
contract CallbackToken is ERC20("callback", "CB") {
    address public target;
    bytes public data;
    bool public succeeded;

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function arm(address target_, bytes calldata data_) external {
        (target, data) = (target_, data_);
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (target != address(0)) (succeeded,) = target.call(data);
    }
}

/// @notice A contract wallet with one owner (ERC-1271).
contract Wallet {
    address public immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        return ECDSA.recover(hash, signature) == OWNER ? this.isValidSignature.selector : bytes4(0);
    }

    function run(address target, bytes calldata data) external {
        (bool done, bytes memory reason) = target.call(data);
        if (!done) {
            assembly {
                revert(add(reason, 0x20), mload(reason))
            }
        }
    }
}

/// @notice Withdraws native coin, and tries again while it is being paid.
contract NativeThief {
    Escrow public immutable ESCROW;
    bool public again;
    bool public refuse;

    constructor(Escrow escrow) payable {
        ESCROW = escrow;
    }

    function put(uint256 amount) external {
        ESCROW.depositNative{value: amount}();
    }

    function take(uint256 amount, bool again_, bool refuse_) external {
        (again, refuse) = (again_, refuse_);
        ESCROW.withdraw(address(0), amount);
    }

    receive() external payable {
        require(!refuse, "refused");
        if (again) ESCROW.withdraw(address(0), 1);
    }
}
